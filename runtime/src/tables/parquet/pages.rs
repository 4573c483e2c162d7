// SPDX-License-Identifier: Apache-2.0
//! What the pages of a column chunk claim, looked at before any is decompressed.
//!
//! The decoder allocates what a page's header declares; so headers are walked
//! first, and a page that is too large, lies outside its chunk, or decompresses
//! beyond the allowed ratio is refused. What is learned on the way says how many
//! rows may be decoded at once.

use bytes::Bytes;
use fanfold_protocol::{ErrorKind, Problem, limits};

use super::header::PageHeader;

/// Pages that are decompressed at one time, over all columns of a row group.
const OPEN_BYTES_MAX: u64 = 1 << 30;

/// Pages of an object, which may be empty, and lie in more than one column chunk: a tenth
/// of a microsecond each. As many of 2 KiB are all that may be decompressed.
const PAGES_MAX: u64 = 8 << 20;

/// What has been decompressed of an object, and out of what.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    pages: u64,
    stored: u64,
    decoded: u64,
}

/// A column chunk: its place for messages, and its bytes: whole pages, in one part
/// or in several, each with where it begins.
pub(super) struct Chunk<'a> {
    pub(super) place: &'a dyn Fn(u64) -> String,
    pub(super) parts: &'a [(u64, Bytes)],
    /// What an item takes at most, where the column holds lists.
    pub(super) item_bytes_max: Option<u64>,
    /// Whether decoded values need their pages.
    pub(super) views: bool,
}

/// What the pages of a chunk, or of several, need in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// The dictionary and the largest page, decompressed.
    pub(super) open_bytes: u64,
    /// The most that a page weighs for each of its values: views keep the pages
    /// of a batch in memory.
    pub(super) value_bytes_max: u64,
    /// What the lists of all rows take at most when decoded.
    pub(super) lists_bytes: u64,
    /// Whether texts in a delta encoding are among them.
    pub(super) delta: bool,
}

impl Need {
    /// Adds another column's, which is open at the same time.
    pub(super) fn add(&mut self, other: Self, place: impl Fn() -> String) -> Result<(), Problem> {
        self.open_bytes += other.open_bytes;
        self.value_bytes_max += other.value_bytes_max;
        self.lists_bytes = self.lists_bytes.saturating_add(other.lists_bytes);
        self.delta |= other.delta;
        check_open(self.open_bytes, place)
    }
}

/// Refuses pages of all columns that together take too much.
pub(super) fn check_open(bytes: u64, place: impl Fn() -> String) -> Result<(), Problem> {
    if bytes <= OPEN_BYTES_MAX {
        return Ok(());
    }
    let detail = format!(
        "{} must have columns of which one page each take at most {OPEN_BYTES_MAX} bytes together, found {bytes}; \
         select fewer columns or write smaller pages",
        place()
    );
    Err(Problem::new(ErrorKind::DecodeLimit, detail))
}

/// The sum and the extremes of a chunk's pages so far.
#[derive(Debug, Default)]
pub(super) struct Walk {
    items: u64,
    bytes: u64,
    dictionary: u64,
    page: u64,
    value_bytes_max: u64,
    delta: bool,
}

impl Budget {
    /// Checks all pages of the chunk and takes them into account.
    pub(super) fn check(&mut self, chunk: &Chunk<'_>) -> Result<Need, Problem> {
        let mut walk = Walk::default();
        for (offset, bytes) in chunk.parts {
            self.check_part(chunk, *offset, bytes, &mut walk)?;
        }
        let behind_views = if chunk.views { walk.bytes } else { 0 };
        let lists =
            chunk.item_bytes_max.map(|each| walk.items.saturating_mul(each).saturating_add(behind_views));
        Ok(Need { lists_bytes: lists.unwrap_or(0), ..walk.need() })
    }

    fn check_part(
        &mut self,
        chunk: &Chunk<'_>,
        offset: u64,
        bytes: &[u8],
        walk: &mut Walk,
    ) -> Result<(), Problem> {
        let mut at = 0;
        while at < bytes.len() {
            let start = offset + at as u64;
            let place = || (chunk.place)(start);
            let (header, length) = PageHeader::read(&bytes[at..]).ok_or_else(|| no_header(&place()))?;
            at += length;
            // No more than there are.
            at += self.check_page(place, header, length as u64, (bytes.len() - at) as u64, walk)? as usize;
        }
        Ok(())
    }

    /// Checks a page by its header of `length` bytes, behind which its chunk has `rest` more, and takes
    /// it into account. Gives how many of them it takes.
    pub(super) fn check_page(
        &mut self,
        place: impl Fn() -> String,
        header: PageHeader,
        length: u64,
        rest: u64,
        walk: &mut Walk,
    ) -> Result<u64, Problem> {
        let (Ok(stored), Ok(decoded), Ok(values)) =
            (u64::try_from(header.stored), u64::try_from(header.decoded), u64::try_from(header.values))
        else {
            return Err(damaged(&place(), "a page of negative size"));
        };
        if stored > rest {
            let found = format!("{stored} bytes of which only {rest} are in its column chunk");
            return Err(damaged(&place(), &found));
        }
        if header.dictionary && values > decoded {
            return Err(damaged(&place(), &format!("a dictionary of {values} values in {decoded} bytes")));
        }
        check_size(decoded).map_err(|p| p.within(place()))?;
        // What is not compressed is kept as it is stored, whatever the header claims.
        walk.take(header.dictionary, decoded.max(stored), values);
        walk.delta |= header.delta;
        self.spend(stored + length, decoded).map_err(|p| p.within(place()))?;
        Ok(stored)
    }

    fn spend(&mut self, stored: u64, decoded: u64) -> Result<(), Problem> {
        self.pages += 1;
        self.stored += stored;
        self.decoded += decoded;
        if self.pages > PAGES_MAX {
            let detail = format!(
                "an object must have at most {PAGES_MAX} pages to be read, found more; write larger pages"
            );
            return Err(Problem::new(ErrorKind::DecodeLimit, detail));
        }
        let by_ratio = limits::PAGE_BYTES_MAX.max(self.stored.saturating_mul(limits::DECODED_RATIO_MAX));
        if self.decoded <= by_ratio.min(limits::DECODED_BYTES_MAX) {
            return Ok(());
        }
        let detail = format!(
            "pages must decompress to at most {} bytes for each stored one and {} in all, found {} out of {}; \
             write the object again with less compression",
            limits::DECODED_RATIO_MAX,
            limits::DECODED_BYTES_MAX,
            self.decoded,
            self.stored
        );
        Err(Problem::new(ErrorKind::DecodeLimit, detail))
    }
}

impl Walk {
    /// What the pages need, besides what lists of them do.
    pub(super) fn need(&self) -> Need {
        Need {
            open_bytes: self.dictionary + self.page,
            value_bytes_max: self.value_bytes_max,
            lists_bytes: 0,
            delta: self.delta,
        }
    }

    fn take(&mut self, dictionary: bool, bytes: u64, values: u64) {
        self.bytes += bytes;
        if dictionary {
            self.dictionary += bytes;
        } else {
            self.items = self.items.saturating_add(values);
            self.page = self.page.max(bytes);
            self.value_bytes_max = self.value_bytes_max.max(bytes / values.max(1));
        }
    }
}

/// The problem of bytes that no page begins with.
pub(super) fn no_header(place: &str) -> Problem {
    damaged(place, "no valid page header")
}

fn damaged(place: &str, found: &str) -> Problem {
    let detail = format!("{place} must hold a page, found {found}; write the object again from its source");
    Problem::new(ErrorKind::ParquetCorrupt, detail)
}

fn check_size(page: u64) -> Result<(), Problem> {
    if page <= limits::PAGE_BYTES_MAX {
        return Ok(());
    }
    let detail = format!(
        "a page must decompress to at most {} bytes, found {page}; write smaller pages",
        limits::PAGE_BYTES_MAX
    );
    Err(Problem::new(ErrorKind::DecodeLimit, detail))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of pages that take no bytes and hold so many values each.
    fn need(pages: &[u64], item_bytes_max: Option<u64>) -> Result<Need, Problem> {
        check(&mut Budget::default(), pages, item_bytes_max)
    }

    fn check(budget: &mut Budget, pages: &[u64], item_bytes_max: Option<u64>) -> Result<Need, Problem> {
        let mut bytes = Vec::new();
        for values in pages {
            // type = 0, sizes 0 and 0, data page header { values, encodings }.
            bytes.extend([0x15, 0, 0x15, 0, 0x15, 0, 0x2c, 0x15]);
            let mut rest = values << 1;
            while rest >= 0x80 {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.extend([rest as u8, 0x15, 0, 0x15, 0, 0x15, 0, 0, 0]);
        }
        let parts = [(0, Bytes::from(bytes))];
        let chunk = Chunk { place: &|at| at.to_string(), parts: &parts, item_bytes_max, views: false };
        budget.check(&chunk)
    }

    #[test]
    fn lists_are_weighed_over_all_columns() {
        let join = |columns: &[Need]| {
            let mut sum = Need::default();
            columns.iter().for_each(|need| sum.add(*need, || "group".to_owned()).unwrap());
            sum.lists_bytes
        };
        // Items of a megabyte, which a dictionary has once.
        let wide = need(&[1_000, 1_000], Some(1 << 20)).unwrap();
        assert_eq!(join(&[wide, need(&[48], Some(1 << 20)).unwrap()]), 2_048 << 20);
        // In no list, rows are decoded by batches.
        assert_eq!(join(&[need(&[1 << 30, 1 << 30], None).unwrap()]), 0);
        let most = need(&[1 << 30], Some(u64::MAX)).unwrap();
        assert_eq!(join(&[most, wide]), u64::MAX);
    }

    #[test]
    fn a_page_takes_no_less_than_it_is_stored_with() {
        let check = |decoded: i64, stored: i64, dictionary: bool, expected: (u64, u64)| {
            let header = PageHeader { decoded, stored, values: 10, dictionary, delta: false };
            let (mut budget, mut walk) = (Budget::default(), Walk::default());
            let taken = budget.check_page(String::new, header, 20, 1 << 20, &mut walk).unwrap();
            let need = walk.need();
            assert_eq!(
                (taken, need.open_bytes, need.value_bytes_max),
                (stored as u64, expected.0, expected.1)
            );
        };
        check(1_000, 400, false, (1_000, 100));
        check(0, 400, false, (400, 40));
        check(10, 400, true, (400, 0));
    }

    #[test]
    fn pages_are_counted_over_all_chunks() {
        let mut budget = Budget { pages: PAGES_MAX - 3, ..Budget::default() };
        assert!(check(&mut budget, &[1, 1], None).is_ok());
        assert!(check(&mut budget, &[1], None).is_ok());
        assert_eq!(check(&mut budget, &[1], None).unwrap_err().code, ErrorKind::DecodeLimit);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let parts = [(0, Bytes::from(bytes))];
            let chunk = Chunk { place: &|at| at.to_string(), parts: &parts, item_bytes_max: Some(8), views: true };
            let _ = Budget::default().check(&chunk);
        }
    }
}
