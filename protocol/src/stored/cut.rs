// SPDX-License-Identifier: Apache-2.0
//! Where a text table may be cut, so that every part holds whole records.
//!
//! One rule for all text: the cut number k is the end of the first record that
//! ends at byte k × target or later. So cuts follow from the text and the target
//! alone, whoever looks for them and in whichever order; a record longer than the
//! target swallows the cuts within it.
//!
//! In JSON Lines a line feed ends a record wherever it stands ([`line_end`]). In
//! CSV it may stand within quotes, and whether it does follows only from all the
//! text before it, so [`CsvCuts`] is fed the whole text, in pieces. Where a record
//! begins nothing before it matters any more: so pieces can be scanned ahead of their
//! turn ([`ahead`]) from where a record seems to begin, and what that found counts
//! once a record is seen to end there.

use memchr::{memchr, memchr_iter, memrchr, memrchr_iter};

use crate::{
    limits,
    plan::ByteRange,
    stored::{
        BOM,
        csv::{Scanner, Step},
    },
};

/// The least multiple of the target that is more than `at`.
pub fn next_aim(at: u64, target: u64) -> u64 {
    let target = target.max(1);
    (at / target + 1).saturating_mul(target)
}

/// The end of the first line that ends at byte `aim` or later, in `bytes` that
/// begin at `offset`, which is less than `aim`. `None` when it is not in them.
pub fn line_end(bytes: &[u8], offset: u64, aim: u64) -> Option<u64> {
    let skip = usize::try_from(aim.checked_sub(offset + 1)?).ok()?;
    let found = bytes.get(skip..)?.iter().position(|b| *b == b'\n')?;
    Some(aim + found as u64)
}

/// The parts that these cuts make of an object of `size` bytes.
pub fn ranges(size: u64, cuts: &[u64]) -> Vec<ByteRange> {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([size]);
    starts.zip(ends).map(|(start, end)| ByteRange { start, end }).collect()
}

/// Records that are scanned twice of a piece that was scanned ahead: where quotes
/// mislead, the second or third mostly begins where it seems to.
const RECORDS_AGAIN: usize = 8;

/// What was found in a piece of CSV before its turn came.
#[derive(Debug)]
pub struct Ahead {
    /// Bytes of the piece before the end of a record, supposedly.
    skip: usize,
    /// Where that is in the text.
    at: u64,
    /// What is behind it.
    cuts: CsvCuts,
}

/// Scans a piece that lies at `offset` of a text from where a record seems to begin;
/// `None` when too few do.
pub fn ahead(scanner: Scanner, piece: &[u8], offset: u64, target: u64) -> Option<Ahead> {
    let mut skip = piece.iter().position(|b| *b == b'\n')? + 1;
    let mut records = 0;
    while records < RECORDS_AGAIN {
        match scanner.record(piece, skip, false, 0, &mut Vec::new()) {
            Ok(Step::Record { next, .. }) => (skip, records) = (next, records + 1),
            Ok(Step::Blank { next }) => skip = next,
            Ok(Step::Incomplete) | Err(_) => return None,
        }
    }
    let at = offset + skip as u64;
    let aim = next_aim(at, target);
    let mut cuts = CsvCuts { offset: at, aim, begun: true, ..CsvCuts::new(scanner, false, target) };
    cuts.feed(&piece[skip..]);
    Some(Ahead { skip, at, cuts })
}

/// Finds the cuts of a CSV text that is fed to it in order. Holds no more than a
/// piece and a record.
///
/// The header stays with the first record. At a fault of the text there are no
/// further cuts: whoever reads the rest, in one part, meets the fault and tells it.
#[derive(Debug)]
pub struct CsvCuts {
    scanner: Scanner,
    target: u64,
    aim: u64,
    /// What was fed and is not yet a whole record, and where it begins.
    window: Vec<u8>,
    offset: u64,
    /// Whether the mark before the text was looked for.
    begun: bool,
    /// Whether the next record names the columns.
    header: bool,
    faulty: bool,
    /// Where the last record ended.
    ended: u64,
    cuts: Vec<u64>,
}

impl CsvCuts {
    /// Cuts for parts of about `target` bytes.
    pub fn new(scanner: Scanner, header: bool, target: u64) -> Self {
        let aim = next_aim(0, target);
        let (window, cuts) = (Vec::new(), Vec::new());
        Self { scanner, target, aim, window, offset: 0, begun: false, header, faulty: false, ended: 0, cuts }
    }

    /// Takes the next piece into account, of which something was found before.
    pub fn feed_ahead(&mut self, piece: &[u8], ahead: Ahead) {
        let Ahead { skip, at, cuts } = ahead;
        self.feed(&piece[..skip]);
        // From the end of a record on, both find the same, if the same cut is due.
        if self.faulty || self.ended != at || self.aim <= self.ended {
            return self.feed(&piece[skip..]);
        }
        cuts.cuts.iter().for_each(|cut| self.pass(*cut));
        (self.window, self.offset, self.faulty) = (cuts.window, cuts.offset, cuts.faulty);
    }

    /// Takes the next piece of the text into account.
    pub fn feed(&mut self, piece: &[u8]) {
        if self.faulty {
            return;
        }
        self.window.extend_from_slice(piece);
        let mut at = match self.begin() {
            Some(at) => at,
            None => return,
        };
        loop {
            at = self.pass_unquoted(at);
            match self.scanner.record(&self.window, at, false, 0, &mut Vec::new()) {
                Ok(Step::Record { next, .. }) => {
                    at = next;
                    self.pass(self.offset + next as u64);
                }
                Ok(Step::Blank { next }) => at = next,
                Ok(Step::Incomplete) => break,
                Err(_) => {
                    self.faulty = true;
                    break;
                }
            }
        }
        self.window.drain(..at);
        self.offset += at as u64;
        self.faulty |= self.window.len() as u64 > limits::RECORD_BYTES_MAX;
    }

    /// Whether no piece can bring another cut.
    pub fn is_faulty(&self) -> bool {
        self.faulty
    }

    /// The cuts within a text of `size` bytes, all of which was fed.
    pub fn finish(mut self, size: u64) -> Vec<u64> {
        self.cuts.retain(|cut| *cut < size);
        self.cuts
    }

    /// Where the records of the window begin; `None` when that cannot be said yet.
    fn begin(&mut self) -> Option<usize> {
        if self.begun {
            return Some(0);
        }
        self.begun = self.window.len() >= BOM.len();
        self.begun.then(|| if self.window.starts_with(BOM) { BOM.len() } else { 0 })
    }

    /// Passes over the whole lines from `at` to the next quote, of which only those
    /// are looked for that matter. Gives where they end.
    fn pass_unquoted(&mut self, at: usize) -> usize {
        let window = std::mem::take(&mut self.window);
        let next = self.pass_lines(&window[at..], self.offset + at as u64);
        self.window = window;
        at + next
    }

    fn pass_lines(&mut self, text: &[u8], offset: u64) -> usize {
        let unquoted = &text[..memchr(self.scanner.quote, text).unwrap_or(text.len())];
        // The header is one record, and not more.
        let Some(last) = memrchr(b'\n', unquoted).filter(|_| !self.header) else { return 0 };
        let lines = &unquoted[..=last];
        // An empty line is no record.
        let is_record = |end: &usize| {
            let line = &lines[..*end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            !line.is_empty() && !line.ends_with(b"\n")
        };
        let aimed_at = |aim: u64| {
            let skip = usize::try_from(aim.saturating_sub(offset + 1)).ok()?;
            memchr_iter(b'\n', lines.get(skip..)?).map(|end| skip + end).find(is_record)
        };
        while let Some(end) = aimed_at(self.aim) {
            self.pass(offset + end as u64 + 1);
        }
        if let Some(end) = memrchr_iter(b'\n', lines).find(is_record) {
            self.pass(offset + end as u64 + 1);
        }
        lines.len()
    }

    /// A record ends here.
    fn pass(&mut self, end: u64) {
        self.ended = end;
        if std::mem::take(&mut self.header) || end < self.aim {
            return;
        }
        self.cuts.push(end);
        self.aim = next_aim(end, self.target);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{job::CsvOptions, stored::csv::Fault};

    fn scanner() -> Scanner {
        Scanner::new("x.csv", &CsvOptions::default()).unwrap()
    }

    fn cuts(text: &[u8], header: bool, target: u64, piece: usize) -> Vec<u64> {
        let mut cuts = CsvCuts::new(scanner(), header, target);
        text.chunks(piece.max(1)).for_each(|piece| cuts.feed(piece));
        cuts.finish(text.len() as u64)
    }

    fn check(text: &str, header: bool, target: u64, expected: &[u64]) {
        assert_eq!(cuts(text.as_bytes(), header, target, usize::MAX), expected, "{text:?} by {target}");
    }

    #[test]
    fn cuts_are_ends_of_records() {
        check("", false, 1, &[]);
        check("a", false, 1, &[]);
        check("\n", false, 1, &[]);
        check("a\nb\nc\n", false, 1, &[2, 4]);
        check("a\nb\nc", false, 2, &[2, 4]);
        check("a\nb\nc\n", false, 3, &[4]);
        check("a\r\nb\r\n", false, 2, &[3]);
        // The header stays with the first record, and so does the mark.
        check("a\nb\nc\n", true, 1, &[4]);
        check("\u{feff}a\nb\nc\n", true, 1, &[7]);
        check("only,header\n", true, 1, &[]);
        // A record longer than the target.
        check("aaaaaaaaaa\nb\nc\n", false, 4, &[11, 13]);
        // Line feeds within quotes, doubled quotes, a quote that is text.
        check("\"a\nb\"\nc\n", false, 3, &[6]);
        check("\"a\"\"\n\"\"b\"\nc\n", false, 1, &[10]);
        check("a\"b\nc\n", false, 1, &[4]);
        // Empty lines belong to what follows.
        check("a\n\n\nb\n", false, 1, &[2]);
        check("a\n\n\nb\nc\n", false, 4, &[6]);
    }

    #[test]
    fn a_fault_ends_the_cutting() {
        check("a\n\"b\"c\nd\ne\n", false, 1, &[2]);
        check("a\n\"b\nc\nd\n", false, 1, &[2]);
        let mut cuts = CsvCuts::new(scanner(), false, 1);
        cuts.feed(b"a\n\"b\"c\n");
        assert!(cuts.is_faulty());
        let mut cuts = CsvCuts::new(scanner(), false, 1);
        cuts.feed(&vec![b'a'; limits::RECORD_BYTES_MAX as usize + 1]);
        assert!(cuts.is_faulty());
    }

    #[test]
    fn lines_end_at_the_aim_or_later() {
        assert_eq!(line_end(b"ab\ncd\n", 0, 1), Some(3));
        assert_eq!(line_end(b"ab\ncd\n", 0, 3), Some(3));
        assert_eq!(line_end(b"ab\ncd\n", 0, 4), Some(6));
        assert_eq!(line_end(b"cd\n", 3, 5), Some(6));
        assert_eq!(line_end(b"cd", 3, 5), None);
        assert_eq!(line_end(b"cd", 3, 9), None);
    }

    #[test]
    fn ranges_cover_the_object() {
        let range = |start, end| ByteRange { start, end };
        assert_eq!(ranges(9, &[2, 5]), [range(0, 2), range(2, 5), range(5, 9)]);
        assert_eq!(ranges(9, &[]), [range(0, 9)]);
    }

    /// All records of a text as bytes, up to a fault.
    fn records(text: &[u8], mut at: usize) -> (Vec<&[u8]>, Option<Fault>) {
        let mut records = Vec::new();
        loop {
            match scanner().record(text, at, true, 0, &mut Vec::new()) {
                Ok(Step::Record { next, .. }) => {
                    records.push(&text[at..next]);
                    at = next;
                }
                Ok(Step::Blank { next }) => at = next,
                Ok(Step::Incomplete) => return (records, None),
                Err(fault) => return (records, Some(fault)),
            }
        }
    }

    proptest! {
        #[test]
        fn parts_hold_the_records_of_the_whole(
            text in "(\u{feff})?([ab,\"\r\n]|\"\"|\r\n){0,60}", target in 1_u64..30, piece in 1_usize..20, header: bool
        ) {
            let text = text.as_bytes();
            let begin = if text.starts_with(BOM) { BOM.len() } else { 0 };
            let (whole, fault) = records(text, begin);
            let cuts = cuts(text, header, target, piece);
            prop_assert!(cuts.is_sorted_by(|a, b| a < b));
            let (mut parts, mut met) = (Vec::new(), None);
            for (number, range) in ranges(text.len() as u64, &cuts).into_iter().enumerate() {
                prop_assert!(met.is_none(), "only the last part is faulty");
                let part = &text[range.start as usize..range.end as usize];
                let (found, fault) = records(part, if number == 0 { begin } else { 0 });
                prop_assert!(number + 1 > cuts.len() || found.len() > usize::from(header && number == 0));
                parts.extend(found);
                met = fault;
            }
            prop_assert_eq!(parts, whole);
            prop_assert_eq!(met.is_some(), fault.is_some());
        }

        #[test]
        fn pieces_do_not_matter(text in "[ab,\"\r\n]{0,60}", target in 1_u64..30, piece in 1_usize..20) {
            let text = text.as_bytes();
            prop_assert_eq!(cuts(text, true, target, piece), cuts(text, true, target, usize::MAX));
        }

        #[test]
        fn scanning_ahead_finds_the_same(
            text in "(\u{feff})?([ab,\"\r\n]|\"\"|\r\n|,\"|\"\n){0,300}",
            target in 1_u64..30, piece in 1_usize..120, header: bool
        ) {
            let text = text.as_bytes();
            let (mut found, mut offset) = (CsvCuts::new(scanner(), header, target), 0);
            for piece in text.chunks(piece) {
                match ahead(scanner(), piece, offset, target).filter(|_| offset > 0) {
                    Some(ahead) => found.feed_ahead(piece, ahead),
                    None => found.feed(piece),
                }
                offset += piece.len() as u64;
            }
            prop_assert_eq!(found.finish(offset), cuts(text, header, target, usize::MAX));
        }
    }
}
