// SPDX-License-Identifier: Apache-2.0
//! Records without quotes, 64 bytes at a time.
//!
//! Where each delimiter and line feed of a run of bytes lies is told by one bit
//! for each byte, so what is left to do is for each field and not for each byte.
//! Source: Langdale and Lemire, "Parsing gigabytes of JSON per second", The VLDB
//! Journal 28, 2019, section 3.1.

use wide::u8x16;

use super::{Block, Field, Scanner};

/// Appends to a block the records of `width` fields that follow it, until it is
/// full. What is no such record ends this, and so may one that is: one with a
/// quote, or one that ends within the last bytes.
pub(super) fn extend(
    scanner: Scanner,
    data: &[u8],
    width: usize,
    full: impl Fn(&Block) -> bool,
    fields: &mut Vec<Field>,
    block: &mut Block,
) {
    // Fields of whole records, and where the next field begins.
    let (mut whole, mut start) = (fields.len(), block.bytes);
    let (chunks, _) = data[start..].as_chunks::<64>();
    for (chunk, base) in chunks.iter().zip((start..).step_by(64)) {
        let [delimiters, breaks, quotes] = places(chunk, [scanner.delimiter, b'\n', scanner.quote]);
        let unquoted = quotes.trailing_zeros();
        let before_quote = if unquoted == 64 { u64::MAX } else { below(unquoted) };
        let (mut delimiters, mut breaks) = (delimiters & before_quote, breaks & before_quote);
        while breaks != 0 {
            let place = breaks.trailing_zeros();
            split(fields, &mut start, base, delimiters & below(place));
            let end = base + place as usize;
            let line = data[start..end].strip_suffix(b"\r").unwrap_or(&data[start..end]);
            let blank = line.is_empty() && fields.len() == whole;
            if !blank {
                fields.push(Field::unquoted(start, start + line.len()));
                if fields.len() != whole + width {
                    return fields.truncate(whole);
                }
                whole = fields.len();
                block.records += 1;
            }
            start = end + 1;
            block.bytes = start;
            if full(block) {
                return;
            }
            delimiters &= !below(place);
            breaks &= breaks - 1;
        }
        split(fields, &mut start, base, delimiters);
        if quotes != 0 || fields.len() >= whole + width {
            break;
        }
    }
    fields.truncate(whole);
}

/// Appends the fields that end at these places from `base` on.
fn split(fields: &mut Vec<Field>, start: &mut usize, base: usize, mut ends: u64) {
    for _ in 0..ends.count_ones() {
        let end = base + ends.trailing_zeros() as usize;
        fields.push(Field::unquoted(*start, end));
        *start = end + 1;
        ends &= ends - 1;
    }
}

/// All bits that are lower than one of 64.
fn below(bit: u32) -> u64 {
    (1 << bit) - 1
}

/// Where each of three bytes is found.
fn places(chunk: &[u8; 64], bytes: [u8; 3]) -> [u64; 3] {
    let wanted = bytes.map(u8x16::splat);
    let mut found = [0; 3];
    for (bytes, shift) in chunk.as_chunks::<16>().0.iter().zip((0..).step_by(16)) {
        let bytes = u8x16::new(*bytes);
        for (found, wanted) in found.iter_mut().zip(wanted) {
            *found |= u64::from(bytes.simd_eq(wanted).to_bitmask()) << shift;
        }
    }
    found
}
