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

mod plain;

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
    fn unquoted(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32, quoted: false, escaped: false }
    }

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
    /// The scanner for the dialect of an object, which its name may tell.
    ///
    /// # Errors
    /// `invalid-request` when its characters are not two different ones of ASCII.
    pub fn new(key: &str, options: &CsvOptions) -> Result<Self, Problem> {
        let ascii = |name: &str, c: char| {
            u8::try_from(c).ok().filter(|b| b.is_ascii() && !matches!(b, b'\r' | b'\n' | 0)).ok_or_else(
                || {
                    let detail = format!("the {name} of CSV must be one ASCII character, found {c:?}");
                    Problem::new(ErrorKind::InvalidRequest, detail)
                },
            )
        };
        let delimiter = super::delimiter(key, options);
        let scanner =
            Self { delimiter: ascii("delimiter", delimiter)?, quote: ascii("quote", options.quote)? };
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
        let full = |block: &Block| block.records >= records_max || block.bytes >= bytes_max;
        while !full(&block) {
            plain::extend(self, data, width, full, fields, &mut block);
            if full(&block) {
                break;
            }
            match self.record(data, block.bytes, ended, width, fields) {
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
        mut at: usize,
        ended: bool,
        keep: usize,
        fields: &mut Vec<Field>,
    ) -> Result<Step, Fault> {
        match blank(data, at, ended) {
            Some(step) => return Ok(step),
            None if at >= data.len() => return Ok(Step::Incomplete),
            None => {}
        }
        let mut count = 0;
        loop {
            let quoted = data.get(at) == Some(&self.quote);
            let found = if quoted { self.quoted(data, at, ended)? } else { self.unquoted(data, at, ended) };
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

    fn unquoted(self, data: &[u8], at: usize, ended: bool) -> Option<(Field, Next)> {
        let rest = &data[at..];
        let (length, next) = match find2(rest, self.delimiter, b'\n') {
            Some(length) if rest[length] == self.delimiter => (length, Next::Field(at + length + 1)),
            Some(length) => (without_return(&rest[..length]), Next::Record(at + length + 1)),
            None if ended => (without_return(rest), Next::Record(data.len())),
            None => return None,
        };
        Some((Field::unquoted(at, at + length), next))
    }

    fn quoted(self, data: &[u8], open: usize, ended: bool) -> Result<Option<(Field, Next)>, Fault> {
        let mut at = open + 1;
        let mut escaped = false;
        let close = loop {
            let Some(found) = find2(&data[at..], self.quote, self.quote) else {
                return if ended { Err(Fault::Unclosed { at: open }) } else { Ok(None) };
            };
            let quote = at + found;
            match data.get(quote + 1) {
                Some(b) if *b == self.quote => {
                    escaped = true;
                    at = quote + 2;
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

fn without_return(field: &[u8]) -> usize {
    field.len() - usize::from(field.ends_with(b"\r"))
}

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The first place of either byte, eight bytes at a time: a byte of `x` is zero
/// where the byte is found, and the lowest set bit of the mask is exact
/// (Mycroft's test; see Warren, Hacker's Delight, 6-1).
fn find2(data: &[u8], a: u8, b: u8) -> Option<usize> {
    let (wide_a, wide_b) = (LOW.wrapping_mul(u64::from(a)), LOW.wrapping_mul(u64::from(b)));
    let (words, tail) = data.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let (x, y) = (word ^ wide_a, word ^ wide_b);
        let zero = (x.wrapping_sub(LOW) & !x | y.wrapping_sub(LOW) & !y) & HIGH;
        if zero != 0 {
            return Some(index * 8 + zero.trailing_zeros() as usize / 8);
        }
    }
    let done = data.len() - tail.len();
    tail.iter().position(|c| *c == a || *c == b).map(|place| done + place)
}

/// What to do where a column is missed among those that were `found`, which may be a whole header
/// that was taken for one. It goes behind a message.
pub fn column_advice(found: &[&str]) -> String {
    let whole = if let [whole] = found { *whole } else { "" };
    match [";", "\t", "|", ","].into_iter().find(|by| whole.contains(by)) {
        Some(by) => format!("; if this is CSV with {by:?} between its fields, set csv.delimiter = {by:?}"),
        None => "; correct the name".to_owned(),
    }
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
        fn a_cut_never_changes_what_is_found(data in "([ab,\"\r\n]|[ab]{9}|,b\n){0,60}", cut in 0_usize..300) {
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
        fn a_block_holds_what_is_found_record_by_record(
            data in "([ab]{0,9},|[ab]{0,30}\r?\n|\r|[ab,]{0,9}\"[ab,\n]{0,9}\"|,,|[ab]{0,80},[ab]{0,80}\n){0,60}",
            width in 1_usize..4, bytes_max in 1_usize..300, records_max in 1_usize..9, ended: bool,
        ) {
            let data = data.as_bytes();
            let mut fields = Vec::new();
            let block = COMMA.block(data, ended, width, (bytes_max, records_max), &mut fields);
            let (mut expected, mut singly) = (Vec::new(), Block { bytes: 0, records: 0, fault: None });
            while singly.fault.is_none() && singly.records < records_max && singly.bytes < bytes_max {
                match COMMA.record(data, singly.bytes, ended, width, &mut expected) {
                    Ok(Step::Record { next, fields }) if fields == width => {
                        (singly.bytes, singly.records) = (next, singly.records + 1);
                    }
                    Ok(Step::Record { fields: found, .. }) => {
                        singly.fault = Some(Fault::FieldCount { at: singly.bytes, found });
                    }
                    Ok(Step::Blank { next }) => singly.bytes = next,
                    Ok(Step::Incomplete) => break,
                    Err(fault) => singly.fault = Some(fault),
                }
            }
            expected.truncate(singly.records * width);
            prop_assert_eq!((block, fields), (singly, expected));
        }

        #[test]
        fn bytes_are_found_as_by_looking_at_each(data in proptest::collection::vec(0_u8..4, 0..40), a in 0_u8..4, b in 0_u8..4) {
            prop_assert_eq!(find2(&data, a, b), data.iter().position(|c| *c == a || *c == b));
        }
    }

    #[test]
    fn a_header_that_is_one_column_points_at_the_delimiter() {
        let check = |found: &[&str], by: Option<&str>| {
            let hint = column_advice(found);
            assert_eq!(by.is_some(), hint.contains("csv.delimiter"), "{found:?}: {hint}");
            assert!(
                by.is_none_or(|by| hint.ends_with(&format!("csv.delimiter = {by:?}"))),
                "{found:?}: {hint}"
            );
        };
        check(&["id;income"], Some(";"));
        check(&["id\tincome"], Some("\t"));
        check(&["id|income"], Some("|"));
        check(&["id,income"], Some(","));
        check(&["id"], None);
        check(&["a;b", "c"], None);
        check(&[], None);
    }
}
