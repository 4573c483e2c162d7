// SPDX-License-Identifier: Apache-2.0
//! Where records and fields begin and end: RFC 4180, nothing converted.
//!
//! Fields may be quoted; a doubled quote within quotes is one quote; delimiters
//! and line breaks within quotes are text. A record ends with a line feed, with
//! or without a carriage return before it; the last one may go without. Empty
//! lines are no records. A quote inside an unquoted field is text, as most
//! writers have it, but text after a closing quote is a mistake.
//!
//! Whoever reads CSV and whoever cuts it uses this one scanner, so that a cut is
//! never made where the reader sees no end of a record.

use crate::{
    error::{ErrorKind, Problem},
    job::CsvOptions,
};

/// A field's text within the scanned bytes, quotes left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its first byte.
    pub start: u32,
    /// The byte after its last.
    pub end: u32,
    /// Whether it stood in quotes.
    pub quoted: bool,
    /// Whether doubled quotes are in it.
    pub escaped: bool,
}

impl Field {
    /// Where it lies within the scanned bytes.
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// What stands at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A record.
    Record {
        /// Where the next thing begins.
        next: usize,
        /// Its fields.
        fields: usize,
    },
    /// An empty line.
    Blank {
        /// Where the next thing begins.
        next: usize,
    },
    /// The beginning of a record whose end is not here yet.
    Incomplete,
}

/// What is wrong, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A closing quote is followed by text.
    AfterQuote {
        /// Of the text.
        at: usize,
    },
    /// A quote is not closed before the end.
    Unclosed {
        /// Of the quote.
        at: usize,
    },
    /// A record has another number of fields.
    FieldCount {
        /// Of the record.
        at: usize,
        /// Its fields.
        found: usize,
    },
}

/// Records that were found, and a fault behind them if there is one.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// Bytes of whole records.
    pub bytes: usize,
    /// Their number.
    pub records: usize,
    /// What follows them and is none.
    pub fault: Option<Fault>,
}

/// The two characters that make CSV.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    /// Between fields.
    pub delimiter: u8,
    /// Around fields.
    pub quote: u8,
}

impl Scanner {
    /// The scanner for a dialect.
    ///
    /// # Errors
    /// `invalid-request` when its characters are not two different ones of ASCII.
    pub fn new(options: &CsvOptions) -> Result<Self, Problem> {
        let ascii = |name: &str, c: char| {
            u8::try_from(c).ok().filter(|b| b.is_ascii() && !matches!(b, b'\r' | b'\n' | 0)).ok_or_else(
                || {
                    let detail = format!("the {name} of CSV must be one ASCII character, found {c:?}");
                    Problem::new(ErrorKind::InvalidRequest, detail)
                },
            )
        };
        let scanner =
            Self { delimiter: ascii("delimiter", options.delimiter)?, quote: ascii("quote", options.quote)? };
        if scanner.delimiter != scanner.quote {
            return Ok(scanner);
        }
        let detail =
            format!("the delimiter and the quote of CSV must differ, found {:?} twice", options.quote);
        Err(Problem::new(ErrorKind::InvalidRequest, detail))
    }

    /// Scans whole records of `width` fields, up to a number of records or bytes
    /// (one record at least), and appends their fields.
    pub fn block(
        self,
        data: &[u8],
        ended: bool,
        width: usize,
        (bytes_max, records_max): (usize, usize),
        fields: &mut Vec<Field>,
    ) -> Block {
        let mut block = Block { bytes: 0, records: 0, fault: None };
        let mut marks = self.marks(data, 0);
        while block.records < records_max && block.bytes < bytes_max {
            match self.step(&mut marks, block.bytes, ended, width, fields) {
                Ok(Step::Record { next, fields: found }) if found == width => {
                    block.bytes = next;
                    block.records += 1;
                }
                Ok(Step::Record { fields: found, .. }) => {
                    block.fault = Some(Fault::FieldCount { at: block.bytes, found });
                    break;
                }
                Ok(Step::Blank { next }) => block.bytes = next,
                Ok(Step::Incomplete) => break,
                Err(fault) => {
                    block.fault = Some(fault);
                    break;
                }
            }
        }
        fields.truncate(block.records * width);
        block
    }

    /// Scans the record at `at` and appends its fields, `keep` at most. When the
    /// text has `ended`, the last record needs no line feed.
    pub fn record(
        self,
        data: &[u8],
        at: usize,
        ended: bool,
        keep: usize,
        fields: &mut Vec<Field>,
    ) -> Result<Step, Fault> {
        self.step(&mut self.marks(data, at), at, ended, keep, fields)
    }

    fn marks(self, data: &[u8], from: usize) -> Marks<'_> {
        Marks { data, bytes: [self.delimiter, self.quote, b'\n'], from, next: from, mask: 0 }
    }

    /// As [`Scanner::record`], given the marks from `at` on; those of the record are taken.
    fn step(
        self,
        marks: &mut Marks<'_>,
        mut at: usize,
        ended: bool,
        keep: usize,
        fields: &mut Vec<Field>,
    ) -> Result<Step, Fault> {
        let data = marks.data;
        match blank(data, at, ended) {
            Some(step) => {
                if matches!(step, Step::Blank { next } if data[next - 1] == b'\n') {
                    marks.next();
                }
                return Ok(step);
            }
            None if at >= data.len() => return Ok(Step::Incomplete),
            None => {}
        }
        let mut count = 0;
        loop {
            let quoted = data.get(at) == Some(&self.quote);
            let found = if quoted { self.quoted(marks, at, ended)? } else { self.unquoted(marks, at, ended) };
            let Some((field, next)) = found else { return Ok(Step::Incomplete) };
            count += 1;
            if count <= keep {
                fields.push(field);
            }
            match next {
                Next::Field(place) => at = place,
                Next::Record(place) => return Ok(Step::Record { next: place, fields: count }),
            }
        }
    }

    fn unquoted(self, marks: &mut Marks<'_>, at: usize, ended: bool) -> Option<(Field, Next)> {
        let data = marks.data;
        let (end, next) = match marks.find(|b| b != self.quote) {
            Some(mark) if data[mark] == self.delimiter => (mark, Next::Field(mark + 1)),
            Some(mark) => (without_return(data, at, mark), Next::Record(mark + 1)),
            None if ended => (without_return(data, at, data.len()), Next::Record(data.len())),
            None => return None,
        };
        Some((Field { start: at as u32, end: end as u32, quoted: false, escaped: false }, next))
    }

    fn quoted(self, marks: &mut Marks<'_>, open: usize, ended: bool) -> Result<Option<(Field, Next)>, Fault> {
        let data = marks.data;
        marks.next();
        let mut escaped = false;
        let close = loop {
            let Some(quote) = marks.find(|b| b == self.quote) else {
                return if ended { Err(Fault::Unclosed { at: open }) } else { Ok(None) };
            };
            match data.get(quote + 1) {
                Some(b) if *b == self.quote => {
                    escaped = true;
                    marks.next();
                }
                None if !ended => return Ok(None),
                _ => break quote,
            }
        };
        let field = Field { start: (open + 1) as u32, end: close as u32, quoted: true, escaped };
        let next = match (data.get(close + 1), data.get(close + 2)) {
            (None, _) => Next::Record(data.len()),
            (Some(b), _) if *b == self.delimiter => Next::Field(close + 2),
            (Some(b'\n'), _) => Next::Record(close + 2),
            (Some(b'\r'), Some(b'\n')) => Next::Record(close + 3),
            (Some(b'\r'), None) if !ended => return Ok(None),
            (Some(b'\r'), None) => Next::Record(data.len()),
            _ => return Err(Fault::AfterQuote { at: close + 1 }),
        };
        // The delimiter or line feed, if there is one.
        marks.next();
        Ok(Some((field, next)))
    }
}

enum Next {
    Field(usize),
    Record(usize),
}

fn blank(data: &[u8], at: usize, ended: bool) -> Option<Step> {
    match (data.get(at), data.get(at + 1)) {
        (Some(b'\n'), _) => Some(Step::Blank { next: at + 1 }),
        (Some(b'\r'), Some(b'\n')) => Some(Step::Blank { next: at + 2 }),
        (Some(b'\r'), None) if ended => Some(Step::Blank { next: at + 1 }),
        (Some(b'\r'), None) => Some(Step::Incomplete),
        _ => None,
    }
}

/// Where a field of `data[start..end]` ends, the carriage return before a line feed left out.
fn without_return(data: &[u8], start: usize, end: usize) -> usize {
    end - usize::from(data[start..end].ends_with(b"\r"))
}

/// Bytes that are looked at together.
const WIDE: usize = 64;

/// The places of the three bytes that matter, in order: of [`WIDE`] bytes at once a mask is made, and its bits are
/// taken one after the other (Langdale and Lemire, Parsing Gigabytes of JSON per Second, 2019).
struct Marks<'a> {
    data: &'a [u8],
    bytes: [u8; 3],
    /// The first byte that the mask tells of.
    from: usize,
    /// The first byte that no mask was made of.
    next: usize,
    mask: u64,
}

impl Marks<'_> {
    /// The next place whose byte is wanted, with all before it taken.
    fn find(&mut self, is_wanted: impl Fn(u8) -> bool) -> Option<usize> {
        loop {
            let place = self.next()?;
            if is_wanted(self.data[place]) {
                return Some(place);
            }
        }
    }

    fn next(&mut self) -> Option<usize> {
        while self.mask == 0 {
            let rest = self.data.get(self.next..)?;
            self.mask = match rest.first_chunk::<WIDE>() {
                Some(wide) => mask(wide, self.bytes),
                None if rest.is_empty() => return None,
                None => {
                    // Filled up with a byte that is none of the three.
                    let mut wide = [0; WIDE];
                    wide[..rest.len()].copy_from_slice(rest);
                    mask(&wide, self.bytes)
                }
            };
            self.from = self.next;
            self.next = self.data.len().min(self.next + WIDE);
        }
        let place = self.from + self.mask.trailing_zeros() as usize;
        self.mask &= self.mask - 1;
        Some(place)
    }
}

/// A bit for each byte that is one of three, the first the lowest.
fn mask(wide: &[u8; WIDE], [a, b, c]: [u8; 3]) -> u64 {
    // In one loop over bytes, so that the compiler uses wide registers.
    let mut found = [0_u8; WIDE];
    for (found, byte) in found.iter_mut().zip(wide) {
        *found = u8::from(*byte == a) | u8::from(*byte == b) | u8::from(*byte == c);
    }
    let (words, _) = found.as_chunks::<8>();
    // The product's highest byte holds the lowest bits of a word's eight bytes.
    let bits = |word: &[u8; 8]| u64::from_le_bytes(*word).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    words.iter().rev().fold(0, |mask, word| mask << 8 | bits(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COMMA: Scanner = Scanner { delimiter: b',', quote: b'"' };

    fn scan(data: &str) -> Result<Vec<Vec<String>>, Fault> {
        let (mut at, mut records) = (0, Vec::new());
        loop {
            let mut fields = Vec::new();
            match COMMA.record(data.as_bytes(), at, true, usize::MAX, &mut fields)? {
                Step::Record { next, .. } => {
                    records.push(fields.iter().map(|f| data[f.range()].to_owned()).collect());
                    at = next;
                }
                Step::Blank { next } => at = next,
                Step::Incomplete => return Ok(records),
            }
        }
    }

    fn check(data: &str, expected: &[&[&str]]) {
        assert_eq!(scan(data).unwrap(), expected, "{data:?}");
    }

    #[test]
    fn records_are_found() {
        check("", &[]);
        check("a,b\r\nc,d\n", &[&["a", "b"], &["c", "d"]]);
        check("a,b\n\n\r\nc,", &[&["a", "b"], &["c", ""]]);
        check("\"a,\n\r\nb\",\"\"\r\n\"x\"", &[&["a,\n\r\nb", ""], &["x"]]);
        check("\"a\"\"b\",c\"d\n", &[&["a\"\"b", "c\"d"]]);
        check("a\rb,c\r", &[&["a\rb", "c"]]);
        check(",,\n", &[&["", "", ""]]);
    }

    #[test]
    fn faults_are_placed() {
        assert_eq!(scan("a,\"b"), Err(Fault::Unclosed { at: 2 }));
        assert_eq!(scan("\"a\"b,c"), Err(Fault::AfterQuote { at: 3 }));
        let block = COMMA.block(b"a,b\nc\n", true, 2, (100, 100), &mut Vec::new());
        assert_eq!(block, Block { bytes: 4, records: 1, fault: Some(Fault::FieldCount { at: 4, found: 1 }) });
    }

    proptest! {
        #[test]
        fn a_cut_never_changes_what_is_found(data in "[ab,\"\r\n]{0,40}", cut in 0_usize..40) {
            let mut whole = Vec::new();
            let block = COMMA.block(data.as_bytes(), true, 2, (1_000, 1_000), &mut whole);
            let cut = cut.min(data.len());
            let mut parts = Vec::new();
            let first = COMMA.block(&data.as_bytes()[..cut], false, 2, (1_000, 1_000), &mut parts);
            prop_assert!(whole.starts_with(&parts));
            if first.fault.is_none() {
                let mut second = Vec::new();
                let rest = COMMA.block(&data.as_bytes()[first.bytes..], true, 2, (1_000, 1_000), &mut second);
                prop_assert_eq!(first.records + rest.records, block.records);
                prop_assert_eq!(rest.fault.is_some(), block.fault.is_some());
            } else {
                prop_assert_eq!(first.records, block.records);
            }
        }

        #[test]
        fn marks_are_found_as_by_looking_at_each(data in "[ab,\"\r\n]{0,200}", from in 0_usize..200) {
            let from = from.min(data.len());
            let mut marks = COMMA.marks(data.as_bytes(), from);
            let found: Vec<usize> = std::iter::from_fn(|| marks.next()).collect();
            let looked: Vec<usize> = data.match_indices([',', '"', '\n']).map(|(place, _)| place).collect();
            prop_assert_eq!(found, looked.into_iter().filter(|place| *place >= from).collect::<Vec<_>>());
        }

        #[test]
        fn records_scanned_together_are_those_scanned_alone(data in "[ab,\"\r\n]{0,300}", width in 1_usize..4) {
            let mut together = Vec::new();
            let block = COMMA.block(data.as_bytes(), true, width, (1_000, 1_000), &mut together);
            let (mut alone, mut at) = (Vec::new(), 0);
            while at < block.bytes {
                match COMMA.record(data.as_bytes(), at, true, width, &mut alone) {
                    Ok(Step::Record { next, .. } | Step::Blank { next }) => at = next,
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(together, alone);
        }
    }
}
