// SPDX-License-Identifier: Apache-2.0
//! Pages of texts in delta encodings, and of decimals stored as bytes, measured
//! before they are decoded.
//!
//! DELTA_LENGTH_BYTE_ARRAY and DELTA_BYTE_ARRAY say how many texts follow and
//! how much each repeats of the one before; the decoder allocates by that count
//! and writes the repetitions out. Here the lengths are decoded first, into
//! bounded memory, so that a small page never becomes a large one. Decimals are
//! copied value by value, and the decoder gives up at one that is longer than its
//! type; so theirs are read from PLAIN pages and dictionaries too.
//!
//! Format: parquet-format 2.x, Encodings.md, DELTA_BINARY_PACKED (5),
//! DELTA_LENGTH_BYTE_ARRAY (6), DELTA_BYTE_ARRAY (7), PLAIN (0).

use std::sync::Arc;

use fanfold_protocol::limits;
use parquet::{
    basic::{Encoding, PageType},
    column::page::{Page, PageReader},
    errors::ParquetError,
    file::{
        metadata::ColumnChunkMetaData, page_index::offset_index::PageLocation, reader::ChunkReader,
        serialized_reader::SerializedPageReader,
    },
};

/// Texts in a page; writers put 20,000 rows in one.
const VALUES_MAX: usize = 4 << 20;

/// Why a page is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Malformed,
    /// Texts that take so many bytes when written out.
    Expands(u64),
}

/// What the texts of a column chunk in these encodings take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// Bytes of the longest one.
    pub(super) longest: u64,
    /// Bytes of those that repeat parts of others, written out.
    pub(super) expanded: u64,
}

/// Measures the texts in the pages of a column chunk that are in these encodings, or
/// also in PLAIN: all of them, or those at these places. The pages' headers have been
/// checked.
pub(super) fn measure(
    data: Arc<impl ChunkReader + 'static>,
    chunk: &ColumnChunkMetaData,
    rows: usize,
    places: Option<Vec<PageLocation>>,
    also_plain: bool,
) -> Result<Measured, ParquetError> {
    let mut pages = SerializedPageReader::new(data, chunk, rows, places)?;
    let mut all = Measured::default();
    while let Some(page) = pages.get_next_page()? {
        let measured = measure_page(&page, chunk, also_plain)?;
        all.longest = all.longest.max(measured.longest);
        all.expanded = all.expanded.saturating_add(measured.expanded);
    }
    Ok(all)
}

/// Measures the texts in one page, if it is in these encodings.
pub(super) fn measure_page(
    page: &Page,
    chunk: &ColumnChunkMetaData,
    also_plain: bool,
) -> Result<Measured, ParquetError> {
    let measured = match page.encoding() {
        Encoding::DELTA_LENGTH_BYTE_ARRAY => lengths(values(page, chunk)),
        Encoding::DELTA_BYTE_ARRAY => prefixed(values(page, chunk)),
        _ if also_plain && page.page_type() == PageType::DICTIONARY_PAGE => plain(page.buffer()),
        Encoding::PLAIN if also_plain => plain(values(page, chunk)),
        _ => return Ok(Measured::default()),
    };
    measured.map_err(|fault| ParquetError::General(fault.words()))
}

/// What the bytes of a page are in memory when its texts are decoded.
pub(super) fn written_bytes(page: &Page, chunk: &ColumnChunkMetaData) -> Result<u64, ParquetError> {
    match page.encoding() {
        Encoding::DELTA_BYTE_ARRAY => prefixed(values(page, chunk))
            .map(|measured| measured.expanded)
            .map_err(|fault| ParquetError::General(fault.words())),
        _ => Ok(page.buffer().len() as u64),
    }
}

/// The bytes of a page behind its levels; none where the levels' lengths lie.
fn values<'a>(page: &'a Page, chunk: &ColumnChunkMetaData) -> &'a [u8] {
    let buffer = page.buffer();
    let levels = match page {
        Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
            *def_levels_byte_len as usize + *rep_levels_byte_len as usize
        }
        _ => {
            let descriptor = chunk.column_descr();
            let kinds = [descriptor.max_rep_level(), descriptor.max_def_level()];
            kinds.iter().filter(|level| **level > 0).fold(0_usize, |at, _| {
                let length = buffer.get(at..).and_then(|rest| rest.first_chunk::<4>());
                length.map_or(usize::MAX, |l| {
                    at.saturating_add(4).saturating_add(u32::from_le_bytes(*l) as usize)
                })
            })
        }
    };
    buffer.get(levels..).unwrap_or_default()
}

impl Fault {
    fn words(self) -> String {
        match self {
            Self::Malformed => "texts of impossible lengths".to_owned(),
            Self::Expands(bytes) => format!("a page of texts that take {bytes} bytes when written out"),
        }
    }
}

/// The bytes of a PLAIN page, each value's behind its length.
fn plain(mut page: &[u8]) -> Result<Measured, Fault> {
    let mut longest = 0;
    while let Some((length, rest)) = page.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length);
        page = rest.get(length as usize..).ok_or(Fault::Malformed)?;
        longest = longest.max(u64::from(length));
    }
    Ok(Measured { longest, expanded: 0 })
}

/// The texts of a DELTA_LENGTH_BYTE_ARRAY page, which are all there.
fn lengths(page: &[u8]) -> Result<Measured, Fault> {
    let (lengths, _) = unpack(page).ok_or(Fault::Malformed)?;
    Ok(Measured { longest: lengths.iter().copied().max().unwrap_or(0).max(0) as u64, expanded: 0 })
}

/// The texts of a DELTA_BYTE_ARRAY page, which all together must be no larger
/// than a page may be.
fn prefixed(page: &[u8]) -> Result<Measured, Fault> {
    let (prefixes, used) = unpack(page).ok_or(Fault::Malformed)?;
    let (suffixes, _) = unpack(&page[used..]).ok_or(Fault::Malformed)?;
    if prefixes.len() != suffixes.len() {
        return Err(Fault::Malformed);
    }
    let (mut total, mut longest) = (0_u64, 0_u64);
    for (prefix, suffix) in prefixes.iter().zip(&suffixes) {
        let prefix = u64::try_from(*prefix).map_err(|_| Fault::Malformed)?;
        let suffix = u64::try_from(*suffix).map_err(|_| Fault::Malformed)?;
        total = total.saturating_add(prefix).saturating_add(suffix);
        longest = longest.max(prefix.saturating_add(suffix));
    }
    let measured = Measured { longest, expanded: total };
    if total > limits::PAGE_BYTES_MAX { Err(Fault::Expands(total)) } else { Ok(measured) }
}

/// The values of DELTA_BINARY_PACKED bytes, and how many bytes they took.
fn unpack(bytes: &[u8]) -> Option<(Vec<i64>, usize)> {
    let mut at = 0;
    let block = usize::try_from(varint(bytes, &mut at)?).ok()?;
    let minis = usize::try_from(varint(bytes, &mut at)?).ok()?;
    let count = usize::try_from(varint(bytes, &mut at)?).ok()?;
    let mut value = zigzag(varint(bytes, &mut at)?);
    let per_mini = block.checked_div(minis).filter(|n| *n > 0 && n % 8 == 0)?;
    if count > VALUES_MAX || block > VALUES_MAX {
        return None;
    }
    let mut values = Vec::new();
    values.extend((count > 0).then_some(value));
    while values.len() < count {
        let least = zigzag(varint(bytes, &mut at)?);
        let widths = bytes.get(at..at.checked_add(minis)?)?;
        at += minis;
        for width in widths {
            if values.len() == count {
                break;
            }
            let width = usize::from(*width);
            let end = at.checked_add(per_mini / 8 * width)?;
            let packed = bytes.get(at..end).filter(|_| width <= 64)?;
            at = end;
            for index in 0..per_mini.min(count - values.len()) {
                let delta = least.wrapping_add(bits(packed, index * width, width) as i64);
                value = value.wrapping_add(delta);
                values.push(value);
            }
        }
    }
    Some((values, at))
}

/// `width` bits from bit `start`, the lowest first.
fn bits(packed: &[u8], start: usize, width: usize) -> u64 {
    let mut wide = [0; 16];
    let from = (start / 8).min(packed.len());
    let part = &packed[from..packed.len().min(from + 9)];
    wide[..part.len()].copy_from_slice(part);
    let shifted = u128::from_le_bytes(wide) >> (start % 8);
    (shifted & ((1_u128 << width) - 1)) as u64
}

/// A LEB128 number that begins at `at`, which is moved behind it.
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of Encodings.md: 1 to 5, all deltas 1, then 7, 5, 3, 1, 2, 3, 4, 5.
    #[test]
    fn values_are_unpacked() {
        // Block of 128 in 4 miniblocks, 5 values, first 1; least delta 1, widths 0.
        let same = [0x80, 0x01, 4, 5, 2, 2, 0, 0, 0, 0];
        assert_eq!(unpack(&same), Some((vec![1, 2, 3, 4, 5], same.len())));
        // Deltas -2, -2, -2, 1, 1, 1, 1: least -2, then 0 0 0 3 3 3 3 in 2 bits.
        let mut mixed = vec![0x80, 0x01, 4, 8, 14, 3, 2, 0, 0, 0, 0b1100_0000, 0b0011_1111];
        mixed.extend([0; 6]);
        assert_eq!(unpack(&mixed), Some((vec![7, 5, 3, 1, 2, 3, 4, 5], mixed.len())));
        assert_eq!(unpack(&mixed[..10]), None);
    }

    #[test]
    fn repetitions_are_counted() {
        // 1,000 texts that repeat 1 MiB each: prefixes 0 then 1 MiB, suffixes 1 MiB then 0.
        let packed = |first: u64, delta: u64| {
            let mut bytes = vec![0x80, 0x01, 4];
            let mut push = |mut value: u64| {
                while value >= 0x80 {
                    bytes.push(value as u8 | 0x80);
                    value >>= 7;
                }
                bytes.push(value as u8);
            };
            push(3);
            push(first << 1);
            push(delta);
            bytes.extend([0; 4]);
            bytes
        };
        let mib = 1 << 20;
        let page = [packed(0, mib << 1), packed(mib, (mib << 1) - 1)].concat();
        assert_eq!(prefixed(&page).ok(), None);
        let page = [packed(0, 2), packed(9, 0)].concat();
        assert_eq!(prefixed(&page), Ok(Measured { longest: 11, expanded: 30 }));
        let page = [packed(40 << 20, 0), packed(1, 0)].concat();
        assert_eq!(prefixed(&page), Err(Fault::Expands(3 * ((40 << 20) + 1))));
    }

    #[test]
    fn plain_values_are_measured() {
        let check = |page: &[u8], expected| assert_eq!(plain(page).map(|m| m.longest), expected, "{page:?}");
        check(&[], Ok(0));
        check(&[1, 0, 0, 0, 9, 3, 0, 0, 0, 7, 8, 9, 0, 0, 0, 0], Ok(3));
        check(&[2, 0, 0, 0, 9], Err(Fault::Malformed));
        check(&[0xff, 0xff, 0xff, 0xff, 9], Err(Fault::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (lengths(&bytes), prefixed(&bytes), plain(&bytes));
        }
    }
}
