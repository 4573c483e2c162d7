// SPDX-License-Identifier: Apache-2.0
//! The beginning of a Parquet footer, checked for a decoder that believes it.
//!
//! The decoder makes the tree of a schema by recursion, and room for as many columns
//! as a group claims; it makes room for all row groups as well. So whoever hands it a footer
//! has the tree walked here first, which has no depth of its own. Both must read the
//! same bytes alike: fields stand in the order of their numbers and have the types of the
//! specification, as all writers have them, or the footer is refused.
//!
//! Format: parquet-format 2.x, `parquet.thrift`, FileMetaData, SchemaElement, LogicalType.

use super::{
    parquet::corrupt,
    thrift::{I32, I64, LIST, STRUCT, Thrift},
};
use crate::{
    error::{ErrorKind, Problem},
    limits,
};

/// The type of bytes, and of single ones.
const BINARY: u8 = 8;
const BYTE: u8 = 3;
/// The greatest number that a field can have.
const FIELD_MAX: i64 = i16::MAX as i64;

/// Groups within each other; a list takes two of them.
const DEPTH_MAX: u64 = 64;
/// Columns and groups of a schema, nested ones included: a hundred bytes each in the decoder.
const ELEMENTS_MAX: u64 = 1 << 17;
/// Column chunks of all row groups: 400 bytes each in the decoder, and about 64 in a footer,
/// which is no larger than a page.
const CHUNKS_MAX: u64 = 1 << 20;

/// Why a footer is not for the decoder.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Damaged(&'static str),
    /// More of something than is taken.
    Many {
        what: &'static str,
        found: u64,
        bound: u64,
    },
}

/// Checks that a footer's schema is a tree of bounded depth, and how much it says to follow.
///
/// # Errors
/// `parquet-corrupt`; `decode-limit` for more than is taken.
pub fn check(uri: &str, footer: &[u8]) -> Result<(), Problem> {
    file(&mut Thrift::new(footer)).map_err(|fault| match fault {
        Fault::Damaged(found) => corrupt(&format!("the footer of {uri}"), found),
        Fault::Many { what, found, bound } => {
            let detail = format!("{uri} must have at most {bound} {what}, found {found}; write fewer");
            Problem::new(ErrorKind::DecodeLimit, detail)
        }
    })
}

/// FileMetaData up to the number of its row groups.
fn file(thrift: &mut Thrift<'_>) -> Result<(), Fault> {
    let order = || Fault::Damaged("no version, schema, number of rows and row groups in this order");
    let mut id = 0;
    let version = next(thrift, &mut id, (1, I32)).and_then(|()| thrift.skip(I32));
    version.and_then(|()| next(thrift, &mut id, (2, LIST))).ok_or_else(order)?;
    let leaves = schema(thrift)?;
    let rows = next(thrift, &mut id, (3, I64)).and_then(|()| thrift.skip(I64));
    let groups = rows.and_then(|()| next(thrift, &mut id, (4, LIST))).and_then(|()| thrift.list());
    let (_, groups) = groups.ok_or_else(order)?;
    few("row groups", groups, limits::ROW_GROUPS_MAX as u64)?;
    few("column chunks in its row groups", groups.saturating_mul(leaves), CHUNKS_MAX)
}

/// Passes to the next field, which must have this number and type.
fn next(thrift: &mut Thrift<'_>, id: &mut i64, expected: (i64, u8)) -> Option<()> {
    let kind = thrift.field(id)??;
    ((*id, kind) == expected).then_some(())
}

fn few(what: &'static str, found: u64, bound: u64) -> Result<(), Fault> {
    if found > bound { Err(Fault::Many { what, found, bound }) } else { Ok(()) }
}

/// The list of SchemaElement, a tree in depth-first order: the number of its leaves.
fn schema(thrift: &mut Thrift<'_>) -> Result<u64, Fault> {
    let malformed = || Fault::Damaged("a schema that is no valid Thrift");
    let Some((STRUCT, count)) = thrift.list() else { return Err(malformed()) };
    few("columns and groups of columns", count, ELEMENTS_MAX)?;
    // What is still to come in the groups that are open, each within the one before, and in all
    // of them; outside of all is the root.
    let (mut open, mut due, mut leaves) = (vec![1_u64], 1_u64, 0);
    for number in 0..count {
        while open.last() == Some(&0) {
            open.pop();
        }
        let Some(left) = open.last_mut() else {
            return Err(Fault::Damaged("columns that are in no group"));
        };
        (*left, due) = (*left - 1, due - 1);
        let children = element(thrift).ok_or_else(malformed)?;
        let children = u64::try_from(children).map_err(|_| malformed())?;
        due = due.saturating_add(children);
        if due > count - number - 1 {
            return Err(Fault::Damaged("groups of more columns than there are"));
        }
        if children == 0 {
            leaves += u64::from(number > 0);
            continue;
        }
        few("groups of columns within each other", open.len() as u64, DEPTH_MAX)?;
        open.push(children);
    }
    Ok(leaves)
}

/// SchemaElement: how many children it has.
fn element(thrift: &mut Thrift<'_>) -> Option<i64> {
    let (mut id, mut children) = (0, 0);
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (5, I32) => children = thrift.integer()?,
            (4, BINARY) | (1..=3 | 6..=9, I32) => thrift.skip(kind)?,
            (10, STRUCT) => logical(thrift)?,
            // Of a later version: what the decoder passes over as we do.
            (11..=FIELD_MAX, 1..=BINARY) => thrift.skip(kind)?,
            _ => return None,
        }
    }
    Some(children)
}

/// LogicalType, a union of structs of which most are empty.
fn logical(thrift: &mut Thrift<'_>) -> Option<()> {
    let (mut which, mut id) = (0, 0);
    let STRUCT = thrift.field(&mut which)?? else { return None };
    while let Some(kind) = thrift.field(&mut id)? {
        match (which, id, kind) {
            // The unit of times and timestamps, a union of empty structs.
            (7 | 8, 2, STRUCT) => {
                let STRUCT = thrift.field(&mut 0)?? else { return None };
                ((thrift.byte()?, thrift.byte()?) == (0, 0)).then_some(())?;
            }
            (5, 1 | 2, I32)
            | (7 | 8, 1, 1 | 2)
            | (10 | 16, 1, BYTE)
            | (10, 2, 1 | 2)
            | (17 | 18, 1, BINARY)
            | (18, 2, I32)
            | (20..=FIELD_MAX, _, 1..=BINARY) => thrift.skip(kind)?,
            _ => return None,
        }
    }
    thrift.field(&mut which)?.is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A footer with these elements and as many row groups, of which none is there.
    fn footer(elements: &[Vec<u8>], groups: u8) -> Vec<u8> {
        // version = 1, schema, rows = 0, row groups.
        let mut bytes = vec![0x15, 2, 0x19, 0xfc];
        let mut count = elements.len();
        while count >= 0x80 {
            bytes.push(count as u8 | 0x80);
            count >>= 7;
        }
        bytes.push(count as u8);
        bytes.extend(elements.concat());
        bytes.extend([0x16, 0, 0x19, (groups << 4) | STRUCT, 0]);
        bytes
    }

    /// A required group "g" of so many columns.
    fn group(children: i32) -> Vec<u8> {
        let mut bytes = vec![0x35, 0, 0x18, 1, b'g', 0x15];
        let mut zigzag = ((children << 1) ^ (children >> 31)) as u32;
        while zigzag >= 0x80 {
            bytes.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        bytes.extend([zigzag as u8, 0]);
        bytes
    }

    /// A required column "x" of 64-bit integers, which has this behind its name.
    fn leaf(rest: &[u8]) -> Vec<u8> {
        [&[0x15, 4, 0x25, 0, 0x18, 1, b'x'], rest, &[0]].concat()
    }

    fn fault(elements: &[Vec<u8>]) -> Option<ErrorKind> {
        check("x", &footer(elements, 0)).err().map(|problem| problem.code)
    }

    #[test]
    fn a_tree_is_taken() {
        // Timestamps of nanoseconds, decimals, a variant of later versions, a later field.
        let timestamp = [0x6c, 0x8c, 0x11, 0x1c, 0x3c, 0, 0, 0, 0];
        let decimal = [0x6c, 0x5c, 0x15, 4, 0x15, 60, 0, 0];
        let (later, field) = ([0x6c, 0x0c, 80, 0, 0], [0xa6, 1]);
        let leaves = [&timestamp[..], &decimal, &later, &field, &[]].map(leaf);
        let tree = [vec![group(2), group(4)], leaves.to_vec()].concat();
        assert_eq!(fault(&tree), None);
        assert_eq!(fault(&[group(0)]), None);
        let deepest = [vec![group(1); DEPTH_MAX as usize], vec![leaf(&[])]].concat();
        assert_eq!(fault(&deepest), None);
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |groups| [vec![group(1); groups], vec![leaf(&[])]].concat();
        assert_eq!(fault(&deep(DEPTH_MAX as usize + 1)), Some(ErrorKind::DecodeLimit));
        assert_eq!(fault(&deep(130_000)), Some(ErrorKind::DecodeLimit));
    }

    #[test]
    fn children_must_be_there() {
        for children in [2, i32::MAX, -1] {
            let found = fault(&[group(children), leaf(&[])]);
            assert_eq!(found, Some(ErrorKind::ParquetCorrupt), "{children}");
        }
        // Each group claims what is left, of which there is only one.
        assert_eq!(fault(&[group(2), group(1), leaf(&[])]), Some(ErrorKind::ParquetCorrupt));
        assert_eq!(fault(&[group(1), leaf(&[]), leaf(&[])]), Some(ErrorKind::ParquetCorrupt));
    }

    #[test]
    fn counts_are_bounded() {
        let wide = |columns| [vec![group(columns)], vec![leaf(&[]); columns as usize]].concat();
        assert_eq!(fault(&wide(ELEMENTS_MAX as i32)), Some(ErrorKind::DecodeLimit));
        let chunks = |groups| check("x", &footer(&wide(100_000), groups)).map_err(|p| p.code);
        assert_eq!((chunks(10), chunks(11)), (Ok(()), Err(ErrorKind::DecodeLimit)));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        // The number of children as bytes, under a number that wraps around to 5, and beside a list of truth
        // values, which some readers take for nothing; a struct of a known type with a field more.
        for rest in
            [&[0x18, 1, 2][..], &[0x05, 0x8a, 0x80, 0x08, 2], &[0x79, 0x11, 0], &[0x6c, 0x1c, 0x15, 2, 0, 0]]
        {
            assert_eq!(fault(&[group(1), leaf(rest)]), Some(ErrorKind::ParquetCorrupt), "{rest:?}");
        }
        // The schema in front of the version.
        let swapped = [&[0x29, 0x1c][..], &group(0), &[0x05, 2, 2, 0x26, 0, 0x19, 0x0c, 0]].concat();
        assert_eq!(check("x", &swapped).unwrap_err().code, ErrorKind::ParquetCorrupt);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = check("x", &bytes);
            let _ = check("x", &[&[0x15, 2, 0x19, 0xfc, 40][..], &bytes].concat());
        }
    }
}
