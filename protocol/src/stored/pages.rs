// SPDX-License-Identifier: Apache-2.0
//! The page index of a Parquet object: where the pages of a column chunk lie,
//! which rows they hold, and which rows a filter may pass by their statistics.
//!
//! Used by the reader, for the row groups that are left after [`super::footer`].
//! An index is a hint: what is malformed, or disagrees with its column chunk, is
//! `None`, and the chunk is read as if there were no index. Walked like a footer:
//! what an index claims is not allocated.
//!
//! Format: parquet-format 2.x, `parquet.thrift`, OffsetIndex and ColumnIndex.

use std::{collections::BTreeSet, ops::Range};

use super::{
    footer::{FooterColumn, bounds},
    thrift::{I32, I64, LIST, STRUCT, Thrift},
};
use crate::filter::{Bound, Statistics};

/// The type of binary values.
const BINARY: u8 = 8;
/// Pages of a column chunk that are told apart.
const PAGES_MAX: usize = 1 << 16;

/// A data page of a column chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where it lies in the object, its header included.
    pub bytes: Range<u64>,
    /// The rows of the row group that it holds.
    pub rows: Range<u64>,
}

/// What is known of one column of a filter: the first row of each page, and what
/// its values are.
#[derive(Clone, Debug, PartialEq)]
pub struct PagedColumn {
    /// The pages, in order.
    pub pages: Vec<Page>,
    /// As many.
    pub statistics: Vec<Statistics>,
}

/// The pages of a column chunk that lies at `chunk` and has so many rows, by its
/// OffsetIndex.
pub fn pages(index: &[u8], chunk: &Range<u64>, rows: u64) -> Option<Vec<Page>> {
    let (mut thrift, mut id, mut pages) = (Thrift::new(index), 0, Vec::<Page>::new());
    while let Some(kind) = thrift.field(&mut id)? {
        if (id, kind) != (1, LIST) {
            thrift.skip(kind)?;
            continue;
        }
        let (STRUCT, count) = thrift.list()? else { return None };
        for _ in 0..count {
            let (bytes, first) = location(&mut thrift)?;
            let (from, in_order) = match pages.last_mut() {
                None => (chunk.start, first == 0),
                Some(last) => {
                    last.rows.end = first;
                    (last.bytes.end, !last.rows.is_empty())
                }
            };
            if !in_order
                || first >= rows
                || bytes.start < from
                || bytes.end > chunk.end
                || pages.len() == PAGES_MAX
            {
                return None;
            }
            pages.push(Page { bytes, rows: first..rows });
        }
    }
    (!pages.is_empty()).then_some(pages)
}

/// PageLocation: its bytes and its first row.
fn location(thrift: &mut Thrift<'_>) -> Option<(Range<u64>, u64)> {
    let (mut id, mut offset, mut size, mut first) = (0, None, None, None);
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (1, I64) => offset = Some(u64::try_from(thrift.integer()?).ok()?),
            (2, I32) => size = Some(u64::try_from(thrift.integer()?).ok()?),
            (3, I64) => first = Some(u64::try_from(thrift.integer()?).ok()?),
            _ => thrift.skip(kind)?,
        }
    }
    let (offset, size) = offset.zip(size.filter(|size| *size > 0))?;
    Some((offset..offset.checked_add(size)?, first?))
}

/// What the ColumnIndex of a chunk of this column says of each of its pages.
pub fn statistics(index: &[u8], column: &FooterColumn, pages: usize) -> Option<Vec<Statistics>> {
    let (mut thrift, mut id) = (Thrift::new(index), 0);
    let (mut absent, mut least, mut greatest, mut nulls) = (None, None, None, None);
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (1, LIST) => {
                absent = Some(list(&mut thrift, pages, &[1, 2], |t| t.byte().map(|byte| byte == 1))?)
            }
            (2, LIST) => least = Some(list(&mut thrift, pages, &[BINARY], Thrift::binary)?),
            (3, LIST) => greatest = Some(list(&mut thrift, pages, &[BINARY], Thrift::binary)?),
            (5, LIST) => nulls = Some(list(&mut thrift, pages, &[I64], Thrift::integer)?),
            _ => thrift.skip(kind)?,
        }
    }
    let (absent, (least, greatest)) = absent.zip(least.zip(greatest))?;
    let of_page = |page: usize| match absent[page] {
        true => Statistics { nulls: true, values: false, bounds: None },
        false => Statistics {
            nulls: !column.required && nulls.as_ref().is_none_or(|nulls| nulls[page] != 0),
            values: true,
            bounds: bounds(column, least[page], greatest[page]),
        },
    };
    Some((0..pages).map(of_page).collect())
}

/// A list of exactly so many items of one of these types.
fn list<'a, T>(
    thrift: &mut Thrift<'a>,
    count: usize,
    kinds: &[u8],
    item: impl Fn(&mut Thrift<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let (kind, found) = thrift.list()?;
    if !kinds.contains(&kind) || found != count as u64 {
        return None;
    }
    (0..count).map(|_| item(thrift)).collect()
}

/// The rows of a row group that may pass, as runs: `columns` are those of the
/// filter, in its order, as far as their pages are known.
pub fn passing(bound: &Bound, rows: u64, columns: &[Option<PagedColumn>]) -> Vec<Range<u64>> {
    let known = || columns.iter().flatten();
    let starts: BTreeSet<u64> =
        known().flat_map(|column| column.pages.iter().map(|page| page.rows.start)).chain([0]).collect();
    let starts: Vec<u64> = starts.into_iter().collect();
    let ends = starts.iter().skip(1).copied().chain([rows]);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (start, end) in starts.iter().copied().zip(ends) {
        let statistics: Vec<_> = columns.iter().map(|column| of_row(column.as_ref(), start)).collect();
        if start == end || !bound.may_pass(&statistics) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == start => run.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

/// What is known of the page that holds a row.
fn of_row(column: Option<&PagedColumn>, row: u64) -> &Statistics {
    let known = column.and_then(|column| {
        let page = column.pages.partition_point(|page| page.rows.start <= row).checked_sub(1)?;
        column.statistics.get(page)
    });
    known.unwrap_or(&Statistics::UNKNOWN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::{Bounds, Filter, Kind};

    /// An OffsetIndex of these pages: offset, size and first row, small numbers.
    fn offsets(pages: &[(u8, u8, u8)]) -> Vec<u8> {
        let mut index = vec![0x19, (pages.len() as u8) << 4 | 0x0c];
        for (offset, size, first) in pages {
            index.extend([0x16, offset * 2, 0x15, size * 2, 0x16, first * 2, 0]);
        }
        index.push(0);
        index
    }

    #[test]
    fn pages_are_found_where_they_agree_with_their_chunk() {
        let found = pages(&offsets(&[(10, 5, 0), (15, 4, 7)]), &(4..20), 9).unwrap();
        let page = |bytes, rows| Page { bytes, rows };
        assert_eq!(found, [page(10..15, 0..7), page(15..19, 7..9)]);
        let damaged: [&[(u8, u8, u8)]; 9] = [
            &[],
            &[(10, 5, 1)],
            &[(3, 5, 0)],
            &[(10, 11, 0)],
            &[(10, 0, 0)],
            &[(10, 5, 0), (14, 4, 7)],
            &[(10, 5, 0), (15, 4, 0)],
            &[(10, 5, 0), (15, 4, 9)],
            &[(10, 5, 0), (15, 6, 7)],
        ];
        for bad in damaged {
            assert_eq!(pages(&offsets(bad), &(4..20), 9), None, "{bad:?}");
        }
        assert_eq!(pages(&offsets(&[(10, 5, 0)])[..5], &(4..20), 9), None);
    }

    fn column(first_rows: &[u64], rows: u64, values: &[Option<(i128, i128)>]) -> Option<PagedColumn> {
        let ends = first_rows.iter().skip(1).copied().chain([rows]);
        let pages = first_rows.iter().zip(ends).map(|(first, end)| Page { bytes: 0..1, rows: *first..end });
        let of = |bounds: &Option<(i128, i128)>| Statistics {
            nulls: bounds.is_none(),
            values: bounds.is_some(),
            bounds: bounds.map(|(least, greatest)| Bounds::Exact(least, greatest)),
        };
        Some(PagedColumn { pages: pages.collect(), statistics: values.iter().map(of).collect() })
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
    fn rows_pass_where_the_pages_of_all_columns_let_them() {
        let a = column(&[0, 10, 20], 30, &[Some((0, 9)), Some((10, 19)), None]);
        let b = column(&[0, 15], 30, &[Some((1, 1)), Some((2, 2))]);
        let check = |filter: &str, expected: &[Range<u64>]| {
            let kinds = [("a", Kind::INTEGER), ("b", Kind::INTEGER)];
            let bound = Filter::parse(filter).unwrap().bind(&kinds).unwrap();
            let both = [("a", &a), ("b", &b)].map(|(name, column)| (name, column.clone()));
            let of =
                |name: &String| both.iter().find(|(n, _)| n == name).and_then(|(_, column)| column.clone());
            let columns: Vec<_> = bound.columns.iter().map(|(name, _)| of(name)).collect();
            assert_eq!(passing(&bound, 30, &columns), expected, "{filter}");
        };
        check("a >= 0", &[0..20]);
        check("a > 9 and b = 1", &[10..15]);
        check("a = 5 or b = 2", &[0..10, 15..30]);
        check("a is null", &[20..30]);
        check("a = 50", &[]);
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one range is what is meant")]
    fn what_is_not_known_passes() {
        let bound = Filter::parse("a = 1").unwrap().bind(&[("a", Kind::INTEGER)]).unwrap();
        assert_eq!(passing(&bound, 5, &[None]), [0..5]);
        assert_eq!(passing(&bound, 0, &[None]), [0..0; 0]);
    }

    /// Literals that are looked at one by one, or bounds that are copied, for each page take minutes.
    #[test]
    fn long_lists_and_long_bounds_are_asked_of_many_pages() {
        let rows = PAGES_MAX as u64;
        let page = |rows| Page { bytes: 0..1, rows };
        let known = |bounds| Statistics { nulls: false, values: true, bounds: Some(bounds) };
        let equal = |row: u64| known(Bounds::Exact(row.into(), row.into()));
        let pages = (0..rows).map(|row| page(row..row + 1)).collect();
        let many = PagedColumn { pages, statistics: (0..rows).map(equal).collect() };
        let long = Bounds::Text(vec![b'a'; 8 << 20], vec![b'c'; 8 << 20]);
        let one = PagedColumn { pages: vec![page(0..rows)], statistics: vec![known(long)] };
        let list: Vec<_> = (0..10_000).map(|n| (7 * n).to_string()).collect();
        let filter = Filter::parse(&format!("t > 'b' and a in ({})", list.join(","))).unwrap();
        let bound = filter.bind(&[("a", Kind::INTEGER), ("t", Kind::Text)]).unwrap();
        let runs = passing(&bound, rows, &[Some(one), Some(many)]);
        assert!(runs.iter().all(|run| run.start % 7 == 0 && run.end == run.start + 1));
        assert_eq!(runs.len() as u64, rows.div_ceil(7));
    }

    /// A footer of one column of 64-bit integers.
    const FOOTER: [u8; 17] = [0x29, 0x2c, 0x48, 1, b'r', 0x15, 2, 0, 0x15, 4, 0x25, 2, 0x18, 1, b'a', 0, 0];

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0..9_usize) {
            let _ = pages(&bytes, &(0..100), 100);
            let column = crate::stored::footer::columns(&FOOTER).unwrap().remove(0);
            let _ = statistics(&bytes, &column, count);
        }
    }
}
