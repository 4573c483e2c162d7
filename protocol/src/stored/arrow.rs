// SPDX-License-Identifier: Apache-2.0
//! The footer of an Arrow IPC file, as far as cutting needs it: where its record
//! batches lie.
//!
//! Walked where it lies, like Parquet's: nothing is allocated because a footer says
//! so, beyond the places of as many batches as it has bytes for.
//!
//! Formats: Arrow columnar format 1.5, "IPC file format" and `File.fbs`; FlatBuffers
//! internals.

use crate::{
    error::{ErrorKind, Problem},
    limits,
};

/// Read at the end of an object, in the hope that its footer is within.
pub const TAIL_BYTES: u64 = 64 << 10;
/// The footer's length and `ARROW1`.
pub const TRAILER_BYTES: usize = 10;

/// The field of a Footer that lists its record batches.
const RECORD_BATCHES: usize = 3;
/// A Block: offset, length of the metadata, padding, length of the body.
const BLOCK_BYTES: usize = 24;

/// The problem of an object, or a place in it, that is not sound Arrow IPC.
pub fn corrupt(place: &str, found: &str) -> Problem {
    let detail =
        format!("{place} must be sound Arrow IPC, found: {found}; write the object again from its source");
    Problem::new(ErrorKind::ArrowCorrupt, detail)
}

/// Bytes of the footer of an object of `size` bytes that ends with `tail`.
///
/// # Errors
/// `arrow-corrupt`.
pub fn footer_length(uri: &str, tail: &[u8], size: u64) -> Result<u64, Problem> {
    let Some((_, [l0, l1, l2, l3, magic @ ..])) = tail.split_last_chunk::<TRAILER_BYTES>() else {
        return Err(corrupt(uri, &format!("only {} bytes", tail.len())));
    };
    if magic != b"ARROW1" {
        return Err(corrupt(uri, &format!("{magic:02x?} instead of ARROW1 at its end; it may be truncated")));
    }
    let length = u64::from(u32::from_le_bytes([*l0, *l1, *l2, *l3]));
    let room = size.saturating_sub(TRAILER_BYTES as u64).min(limits::PAGE_BYTES_MAX);
    if length > room {
        return Err(corrupt(uri, &format!("a footer of {length} bytes where at most {room} can be")));
    }
    Ok(length)
}

/// Where the record batches of a file of `size` bytes begin, when they lie one behind
/// the other; `None` where they do not, or the footer is malformed.
pub fn batches(footer: &[u8], size: u64) -> Option<Vec<u64>> {
    let table = at(footer, 0)?;
    let vtable =
        usize::try_from(i64::try_from(table).ok()? - i64::from(i32::from_le_bytes(bytes(footer, table)?)))
            .ok()?;
    let entry = 4 + 2 * RECORD_BATCHES;
    if usize::from(u16::from_le_bytes(bytes(footer, vtable)?)) < entry + 2 {
        return Some(Vec::new());
    }
    let field = usize::from(u16::from_le_bytes(bytes(footer, vtable.checked_add(entry)?)?));
    if field == 0 {
        return Some(Vec::new());
    }
    let vector = at(footer, table.checked_add(field)?)?;
    let count = usize::try_from(u32::from_le_bytes(bytes(footer, vector)?)).ok()?;
    let blocks = footer.get(vector + 4..)?.get(..count.checked_mul(BLOCK_BYTES)?)?;
    let (mut starts, mut end) = (Vec::with_capacity(count), 0);
    for block in blocks.chunks_exact(BLOCK_BYTES) {
        let start = u64::try_from(i64::from_le_bytes(bytes(block, 0)?)).ok()?;
        let metadata = u64::try_from(i32::from_le_bytes(bytes(block, 8)?)).ok()?;
        let body = u64::try_from(i64::from_le_bytes(bytes(block, 16)?)).ok()?;
        if start < end || metadata == 0 {
            return None;
        }
        end = start.checked_add(metadata)?.checked_add(body)?;
        starts.push(start);
    }
    (end <= size).then_some(starts)
}

/// What an offset from its own place leads to.
fn at(footer: &[u8], place: usize) -> Option<usize> {
    place.checked_add(usize::try_from(u32::from_le_bytes(bytes(footer, place)?)).ok()?)
}

fn bytes<const N: usize>(footer: &[u8], at: usize) -> Option<[u8; N]> {
    footer.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Where a file is cut whose batches begin at `starts`: at the first batch that begins
/// at byte k × target or later, of those behind the first.
pub fn cuts(starts: &[u64], target: u64) -> Vec<u64> {
    let (mut cuts, mut aim) = (Vec::new(), super::cut::next_aim(0, target));
    for start in starts.iter().skip(1).copied().filter(|start| *start > 0) {
        if start >= aim {
            cuts.push(start);
            aim = super::cut::next_aim(start, target);
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A footer with nothing but these blocks.
    fn footer(blocks: &[(i64, i32, i64)]) -> Vec<u8> {
        // The root's place, a vtable of four fields, the table, the vector.
        let mut footer = vec![16, 0, 0, 0, 12, 0, 8, 0, 0, 0, 0, 0, 0, 0, 4, 0];
        footer.extend(12_i32.to_le_bytes());
        footer.extend(4_u32.to_le_bytes());
        footer.extend((blocks.len() as u32).to_le_bytes());
        for (start, metadata, body) in blocks {
            footer.extend(start.to_le_bytes());
            footer.extend(metadata.to_le_bytes());
            footer.extend([0; 4]);
            footer.extend(body.to_le_bytes());
        }
        footer
    }

    #[test]
    fn batches_are_found_where_they_follow_each_other() {
        let check = |blocks: &[(i64, i32, i64)], expected: Option<&[u64]>| {
            assert_eq!(batches(&footer(blocks), 100).as_deref(), expected, "{blocks:?}");
        };
        check(&[], Some(&[]));
        check(&[(8, 4, 12), (24, 8, 8), (48, 2, 50)], Some(&[8, 24, 48]));
        check(&[(24, 8, 8), (8, 4, 12)], None);
        check(&[(8, 4, 12), (23, 8, 8)], None);
        check(&[(8, 0, 12)], None);
        check(&[(8, 4, 89)], None);
        check(&[(-8, 4, 12)], None);
        check(&[(8, 4, i64::MAX)], None);
        // No list of batches, a list that is longer than the footer.
        let mut none = footer(&[]);
        none[14] = 0;
        assert_eq!(batches(&none, 100), Some(Vec::new()));
        let mut long = footer(&[(8, 4, 12)]);
        long[24] = 200;
        assert_eq!(batches(&long, 100), None);
    }

    #[test]
    fn files_are_cut_between_batches() {
        let check =
            |target, expected: &[u64]| assert_eq!(cuts(&[8, 24, 48, 60], target), expected, "{target}");
        check(1, &[24, 48, 60]);
        check(40, &[48]);
        check(50, &[60]);
        check(24, &[24, 48]);
        check(100, &[]);
        assert_eq!(cuts(&[], 1), [0_u64; 0]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..120), size in any::<u64>()) {
            let _ = batches(&bytes, size);
            let _ = footer_length("x", &bytes, size);
        }
    }
}
