// SPDX-License-Identifier: Apache-2.0
//! The footer of a Parquet object, as far as cutting needs it: how many bytes
//! each row group has.
//!
//! The planner runs where users' connections are held, so footers are walked
//! here and not handed to a decoder that believes them.
//!
//! Format: parquet-format 2.x, `parquet.thrift`, FileMetaData.

use super::thrift::{I64, LIST, STRUCT, Thrift};
use crate::{
    error::{ErrorKind, Problem},
    limits,
};

/// Read at the end of an object, in the hope that its footer is within.
pub const TAIL_BYTES: u64 = 64 << 10;
/// The footer's length and the magic behind it.
pub const TRAILER_BYTES: usize = 8;

/// The problem of an object, or a place in it, that is not sound Parquet.
pub fn corrupt(place: &str, found: &str) -> Problem {
    let detail =
        format!("{place} must be sound Parquet, found: {found}; write the object again from its source");
    Problem::new(ErrorKind::ParquetCorrupt, detail)
}

/// Bytes of the footer of an object of `size` bytes that ends with `tail`.
///
/// # Errors
/// `parquet-corrupt`.
pub fn footer_length(uri: &str, tail: &[u8], size: u64) -> Result<usize, Problem> {
    let Some((_, [l0, l1, l2, l3, magic @ ..])) = tail.split_last_chunk::<TRAILER_BYTES>() else {
        return Err(corrupt(uri, &format!("only {} bytes", tail.len())));
    };
    match magic {
        b"PAR1" => {}
        b"PARE" => return Err(corrupt(uri, "an encrypted footer, which is not read here")),
        found => {
            return Err(corrupt(
                uri,
                &format!("{found:02x?} instead of PAR1 at its end (byte {}); it may be truncated", size - 4),
            ));
        }
    }
    let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
    let room = (size - TRAILER_BYTES as u64).min(limits::PAGE_BYTES_MAX);
    if u64::from(length) <= room {
        return Ok(length as usize);
    }
    Err(corrupt(uri, &format!("a footer of {length} bytes where at most {room} can be")))
}

/// Stored bytes of each row group.
///
/// # Errors
/// `parquet-corrupt`; `decode-limit` for more than [`limits::ROW_GROUPS_MAX`].
pub fn row_group_bytes(uri: &str, footer: &[u8]) -> Result<Vec<u64>, Problem> {
    let malformed = || corrupt(&format!("the footer of {uri}"), "no valid Thrift");
    let sizes = file(&mut Thrift::new(footer)).ok_or_else(malformed)?;
    if sizes.len() > limits::ROW_GROUPS_MAX {
        let detail = format!(
            "{uri} must have at most {} row groups, found more; write larger ones",
            limits::ROW_GROUPS_MAX
        );
        return Err(Problem::new(ErrorKind::DecodeLimit, detail));
    }
    Ok(sizes)
}

/// FileMetaData; one row group more than allowed at most.
fn file(thrift: &mut Thrift<'_>) -> Option<Vec<u64>> {
    let (mut id, mut sizes) = (0, None);
    while let Some(kind) = thrift.field(&mut id)? {
        if (id, kind) != (4, LIST) {
            thrift.skip(kind)?;
            continue;
        }
        let (STRUCT, count) = thrift.list()? else { return None };
        let mut found = Vec::new();
        for _ in 0..count {
            found.push(row_group(thrift)?);
            if found.len() > limits::ROW_GROUPS_MAX {
                return Some(found);
            }
        }
        sizes = Some(found);
    }
    sizes
}

/// RowGroup: what it says of its bytes, or else what its columns say together.
fn row_group(thrift: &mut Thrift<'_>) -> Option<u64> {
    let (mut id, mut columns, mut total) = (0, 0_u64, None);
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (1, LIST) => {
                let (STRUCT, count) = thrift.list()? else { return None };
                for _ in 0..count {
                    columns = columns.saturating_add(column_chunk(thrift)?);
                }
            }
            (6, I64) => total = Some(u64::try_from(thrift.integer()?).ok()?),
            _ => thrift.skip(kind)?,
        }
    }
    Some(total.filter(|total| *total > 0).unwrap_or(columns))
}

/// ColumnChunk, and within it ColumnMetaData.
fn column_chunk(thrift: &mut Thrift<'_>) -> Option<u64> {
    let (mut id, mut bytes) = (0, 0);
    while let Some(kind) = thrift.field(&mut id)? {
        if (id, kind) != (3, STRUCT) {
            thrift.skip(kind)?;
            continue;
        }
        let mut id = 0;
        while let Some(kind) = thrift.field(&mut id)? {
            match (id, kind) {
                (7, I64) => bytes = u64::try_from(thrift.integer()?).ok()?,
                _ => thrift.skip(kind)?,
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind<T: std::fmt::Debug>(result: Result<T, Problem>) -> ErrorKind {
        result.unwrap_err().code
    }

    #[test]
    fn row_groups_are_weighed() {
        // version = 1, row groups [{ columns [{ meta data { compressed 40 } }, the same ] }, { compressed 9 }].
        let footer =
            [0x15, 2, 0x39, 0x2c, 0x19, 0x2c, 0x3c, 0x76, 80, 0, 0, 0x3c, 0x76, 80, 0, 0, 0, 0x66, 18, 0, 0];
        assert_eq!(row_group_bytes("x", &footer).unwrap(), [80, 9]);
        assert_eq!(row_group_bytes("x", &[0x49, 0x0c, 0]).unwrap(), [0_u64; 0]);
        assert_eq!(kind(row_group_bytes("x", &footer[..15])), ErrorKind::ParquetCorrupt);
        assert_eq!(kind(row_group_bytes("x", &[0])), ErrorKind::ParquetCorrupt);
        // A negative size.
        assert_eq!(kind(row_group_bytes("x", &[0x49, 0x1c, 0x66, 1, 0, 0])), ErrorKind::ParquetCorrupt);
    }

    #[test]
    fn what_a_footer_claims_is_not_allocated() {
        // 2^31 row groups in no bytes.
        let claim = [0x49, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07];
        assert_eq!(kind(row_group_bytes("x", &claim)), ErrorKind::ParquetCorrupt);
        let many = [&[0x49, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07][..], &vec![0; limits::ROW_GROUPS_MAX + 9]];
        assert_eq!(kind(row_group_bytes("x", &many.concat())), ErrorKind::DecodeLimit);
    }

    #[test]
    fn trailers_are_checked() {
        let check = |tail: &[u8], size: u64| footer_length("x", tail, size);
        assert_eq!(check(b"....\x03\0\0\0PAR1", 12).unwrap(), 3);
        for tail in [&b""[..], b"PAR1", b"\x05\0\0\0PAR1", b"....\xff\xff\xff\xffPAR1", b"....\x01\0\0\0PARE"]
        {
            assert_eq!(kind(check(tail, tail.len() as u64)), ErrorKind::ParquetCorrupt, "{tail:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = row_group_bytes("x", &bytes);
            let _ = footer_length("x", &bytes, bytes.len() as u64);
        }
    }
}
