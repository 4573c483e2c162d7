// SPDX-License-Identifier: Apache-2.0
//! How tables lie in objects: what the planner, which cuts them, and the readers
//! of the parts must see alike.
//!
//! Pure functions over bytes that someone else has fetched. An object's format is
//! told by its first bytes, then its name, then its text. Everything here takes
//! its input as hostile: it ends in a [`Problem`], and nothing is allocated
//! because bytes say so.

pub mod arrow;
pub mod csv;
pub mod cut;
pub mod escapes;
#[cfg(feature = "filter")]
pub mod footer;
pub mod guess;
pub mod jsonl;
#[cfg(feature = "filter")]
pub mod pages;
pub mod parquet;
pub mod schema;
pub mod thrift;
pub mod value;

use std::fmt::Display;

use crate::{
    error::{ErrorKind, Problem},
    job::{CsvOptions, Format},
    uri::ObjectUri,
};

/// Bytes at an object's start that tell its format and the types of its columns.
pub const SAMPLE_BYTES: usize = 1 << 20;
/// The mark of UTF-8 before a text.
pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// A format that is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// An Arrow IPC file.
    ArrowFile,
    /// An Arrow IPC stream.
    ArrowStream,
}

/// How an object is compressed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compressed {
    /// It is not.
    No,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compressed {
    /// Told from an object's first bytes.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            // A frame of data, or one to skip, with which pzstd begins.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::No,
        }
    }
}

/// What ends the names of compressed objects.
const COMPRESSED_SUFFIXES: [&str; 2] = [".gz", ".zst"];

/// Whether the object's name says that it is compressed as a whole.
pub fn compressed_by_name(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    COMPRESSED_SUFFIXES.iter().any(|suffix| key.ends_with(suffix))
}

/// The first bytes of an Arrow file, as of a Parquet one `PAR1`.
const ARROW: &[u8] = b"ARROW1";
const PARQUET: &[u8] = b"PAR1";
/// How every message of an Arrow stream begins.
const MESSAGE: &[u8] = &[0xff; 4];

/// What the object's name says.
pub fn by_name(key: &str) -> Option<Stored> {
    match ending(key)?.as_str() {
        "parquet" | "pq" => Some(Stored::Parquet),
        "csv" | "tsv" | "tab" => Some(Stored::Csv),
        "jsonl" | "ndjson" => Some(Stored::Jsonl),
        "arrow" | "feather" | "ipc" => Some(Stored::ArrowFile),
        "arrows" => Some(Stored::ArrowStream),
        _ => None,
    }
}

/// What stands between the fields of CSV where neither the job nor the name says otherwise.
pub const COMMA: char = ',';

/// What stands between the fields of CSV in the object of this name.
pub fn delimiter(key: &str, csv: &CsvOptions) -> char {
    let by_name = || if matches!(ending(key).as_deref(), Some("tsv" | "tab")) { '\t' } else { COMMA };
    csv.delimiter.unwrap_or_else(by_name)
}

/// How the object's name ends, in lower case and compression's suffix aside.
fn ending(key: &str) -> Option<String> {
    let key = key.to_ascii_lowercase();
    let bare = COMPRESSED_SUFFIXES.iter().find_map(|suffix| key.strip_suffix(suffix)).unwrap_or(&key);
    let name = bare.rsplit('/').next().unwrap_or_default();
    Some(name.rsplit_once('.')?.1.to_owned())
}

/// Whether an object is read as Parquet, of which the end is read first, without a look at
/// its beginning: its name says so, and not that it is compressed as a whole.
pub fn is_parquet_by_name(key: &str) -> bool {
    by_name(key) == Some(Stored::Parquet) && !compressed_by_name(key)
}

/// The format of an object that begins with `head`; `text` is the beginning of
/// its text, decompressed when it is compressed.
///
/// # Errors
/// `format-unknown`.
pub fn tell(
    uri: &ObjectUri,
    asked: Format,
    head: &[u8],
    text: &[u8],
    csv: &CsvOptions,
) -> Result<Stored, Problem> {
    if let (Some(by), Format::Auto | Format::Csv | Format::Jsonl) = (foreign(head), asked) {
        let detail = format!(
            "{uri} must be stored as it is or as gzip or Zstandard, found {by}; decompress it, or compress it otherwise"
        );
        return Err(Problem::new(ErrorKind::FormatUnknown, detail));
    }
    let stored = match asked {
        Format::Parquet => Stored::Parquet,
        Format::Csv => Stored::Csv,
        Format::Jsonl => Stored::Jsonl,
        Format::Arrow if head.starts_with(MESSAGE) => Stored::ArrowStream,
        Format::Arrow => Stored::ArrowFile,
        Format::Auto | Format::Bytes => {
            let told = by_magic(head).or_else(|| by_name(uri.key())).or_else(|| by_text(text, csv));
            told.ok_or_else(|| unknown(uri, head, text))?
        }
    };
    if stored == Stored::Csv && csv.header {
        check_header(uri, text)?;
    }
    let binary = !matches!(stored, Stored::Csv | Stored::Jsonl);
    if binary && Compressed::of(head) != Compressed::No {
        let detail = format!(
            "{uri} must not be compressed as a whole to be read as {}, found compressed data; decompress it",
            if stored == Stored::Parquet { "Parquet" } else { "Arrow" }
        );
        return Err(Problem::new(ErrorKind::FormatUnknown, detail));
    }
    Ok(stored)
}

/// What an object is compressed by that is not decompressed here.
fn foreign(head: &[u8]) -> Option<&'static str> {
    match head {
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [b'P', b'K', 3, 4, ..] => Some("a ZIP archive"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some("LZ4"),
        [0xff, 0x06, 0, 0, b's', b'N', b'a', b'P', b'p', b'Y', ..] => Some("Snappy"),
        _ => None,
    }
}

fn by_magic(head: &[u8]) -> Option<Stored> {
    if head.starts_with(PARQUET) {
        Some(Stored::Parquet)
    } else if head.starts_with(ARROW) {
        Some(Stored::ArrowFile)
    } else if head.starts_with(MESSAGE) {
        Some(Stored::ArrowStream)
    } else {
        None
    }
}

/// Text whose first line is a JSON object, or holds the delimiter.
fn by_text(text: &[u8], csv: &CsvOptions) -> Option<Stored> {
    if is_json_array(text) {
        return None;
    }
    let line = str::from_utf8(first_line(text)).ok().filter(|l| !l.contains('\0'))?;
    if line.starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok() {
        Some(Stored::Jsonl)
    } else if line.contains(csv.delimiter.unwrap_or(COMMA)) {
        Some(Stored::Csv)
    } else {
        None
    }
}

/// Refuses JSON, of which CSV would have the first line for a header and the table no rows.
///
/// # Errors
/// `format-unknown`.
pub fn check_header(uri: impl Display, text: &[u8]) -> Result<(), Problem> {
    let detail = if is_json_array(text) {
        format!("{uri} must be CSV, found an array of JSON; {ARRAY_AS_TABLE}")
    } else if is_json_object(text) {
        format!(
            "{uri} must be CSV, found a JSON object for a header; set format = \"jsonl\" to read JSON Lines"
        )
    } else {
        return Ok(());
    };
    Err(Problem::new(ErrorKind::FormatUnknown, detail))
}

/// What to do with an array of JSON.
const ARRAY_AS_TABLE: &str = "write its objects one a line, or the rows as CSV";

/// Text that begins an object of JSON, which a header such as `{id},{2026}` does not.
fn is_json_object(text: &[u8]) -> bool {
    let Some(first) = first_line(text).strip_prefix(b"{").map(<[u8]>::trim_ascii_start) else { return false };
    matches!(first.first(), None | Some(b'"' | b'}'))
}

/// Text that begins an array of JSON, which a header such as `[id],[2026]` does not.
fn is_json_array(text: &[u8]) -> bool {
    let line = first_line(text);
    let Some(first) = line.strip_prefix(b"[").map(<[u8]>::trim_ascii_start) else { return false };
    matches!(first.first(), None | Some(b'{' | b'[' | b'"'))
        || serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

fn first_line(text: &[u8]) -> &[u8] {
    let text = text.strip_prefix(BOM).unwrap_or(text).trim_ascii_start();
    text.split(|b| *b == b'\n').next().unwrap_or_default()
}

fn unknown(uri: &ObjectUri, head: &[u8], text: &[u8]) -> Problem {
    if is_json_array(text) {
        let detail = format!(
            "{uri} must be Parquet, CSV, JSON Lines or Arrow, found an array of JSON; {ARRAY_AS_TABLE}"
        );
        return Problem::new(ErrorKind::FormatUnknown, detail);
    }
    let shown: Vec<String> = head.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let detail = format!(
        "{uri} must be Parquet, CSV, JSON Lines or Arrow by its content or name, found the first bytes {}; say which \
         with format",
        shown.join(" ")
    );
    Problem::new(ErrorKind::FormatUnknown, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_compression() {
        let check = |head: &[u8], expected| assert_eq!(Compressed::of(head), expected, "{head:?}");
        check(b"\x1f\x8b\x08\0", Compressed::Gzip);
        check(b"\x28\xb5\x2f\xfd\x04", Compressed::Zstd);
        check(b"\x50\x2a\x4d\x18\x04\0\0\0", Compressed::Zstd);
        check(b"\x5f\x2a\x4d\x18", Compressed::Zstd);
        check(b"P*M\n", Compressed::No);
        check(b"", Compressed::No);
    }

    #[test]
    fn other_compressions_are_named() {
        let uri = &ObjectUri::new("bank", "x.csv").unwrap();
        let told = |asked, head: &[u8]| tell(uri, asked, head, head, &CsvOptions::default());
        for (head, word) in [
            (&b"BZh91AY&SY\0"[..], "bzip2"),
            (b"\xfd7zXZ\0\0", "xz"),
            (b"PK\x03\x04\x14", "ZIP"),
            (b"\x04\x22\x4d\x18d", "LZ4"),
            (b"\xff\x06\0\0sNaPpY", "Snappy"),
        ] {
            for asked in [Format::Auto, Format::Csv, Format::Jsonl] {
                let problem = told(asked, head).unwrap_err();
                assert_eq!(problem.code, ErrorKind::FormatUnknown);
                assert!(problem.detail.contains(word), "{problem}");
            }
        }
        assert_eq!(told(Format::Auto, b"BZh9,PK\n"), Ok(Stored::Csv));
    }

    #[test]
    fn names_tell() {
        let check = |key: &str, expected| assert_eq!(by_name(key), expected, "{key}");
        check("a/b.PARQUET", Some(Stored::Parquet));
        check("x.csv.gz", Some(Stored::Csv));
        check("x.tsv", Some(Stored::Csv));
        check("x.Tab.gz", Some(Stored::Csv));
        check("x.ndjson.zst", Some(Stored::Jsonl));
        check("a.csv/b", None);
        check("csv", None);
        check("x.gz", None);
        assert!(is_parquet_by_name("a/b.pq") && !is_parquet_by_name("a/b.parquet.gz"));
    }

    #[test]
    fn names_tell_delimiters() {
        let by = |key: &str, asked| delimiter(key, &CsvOptions { delimiter: asked, ..CsvOptions::default() });
        for key in ["a/x.tsv", "x.TAB", "x.tsv.gz", "x.tab.zst", "s3://bank/x.tsv"] {
            assert_eq!((by(key, None), by(key, Some(','))), ('\t', ','), "{key}");
        }
        for key in ["x.csv", "x.csv.gz", "tsv", "x.tsv/y", "x.tsv.csv", ""] {
            assert_eq!((by(key, None), by(key, Some('\t'))), (',', '\t'), "{key}");
        }
    }

    #[test]
    fn json_is_no_header() {
        let uri = &ObjectUri::new("bank", "x.csv").unwrap();
        let check = |text: &str, word: Option<&str>| {
            let told = |format, csv: &CsvOptions| tell(uri, format, text.as_bytes(), text.as_bytes(), csv);
            for format in [Format::Auto, Format::Csv] {
                match (told(format, &CsvOptions::default()), word) {
                    (Ok(stored), None) => assert_eq!(stored, Stored::Csv, "{text}"),
                    (Err(problem), Some(word)) => {
                        assert_eq!(problem.code, ErrorKind::FormatUnknown);
                        assert!(problem.detail.contains(word), "{problem}");
                    }
                    (found, _) => panic!("{text}: {found:?}"),
                }
                // Where there is no header nothing is lost.
                let bare = CsvOptions { header: false, ..CsvOptions::default() };
                assert_eq!(told(format, &bare), Ok(Stored::Csv), "{text}");
            }
            assert!(word.is_none() || told(Format::Jsonl, &CsvOptions::default()).is_ok());
        };
        check("{\"a\":7}\n", Some("format = \"jsonl\""));
        check("\u{feff}\n { \"a\": 7, \"b\": 8}\n", Some("format = \"jsonl\""));
        check("{\r\n  \"a\": 7\r\n}\r\n", Some("format = \"jsonl\""));
        check("{}\n", Some("format = \"jsonl\""));
        check("{\"a\":\"cut o", Some("format = \"jsonl\""));
        check("[{\"a\":7}]", Some("array of JSON"));
        check("[\n1,\n", Some("array of JSON"));
        check("{a},{b}\n1,2\n", None);
        check("{,}\n1,2\n", None);
        check("[a],[b]\n1,2\n", None);
        check("\"{\"\"a\"\":7}\"\n1\n", None);
        check("a,b\n{\"a\":7},1\n", None);
        check("", None);
    }

    #[test]
    fn text_tells() {
        let check = |text: &str, expected| {
            assert_eq!(by_text(text.as_bytes(), &CsvOptions::default()), expected, "{text}")
        };
        check("a,b\n1,2\n", Some(Stored::Csv));
        check("{\"a\": [1, 2]}\n", Some(Stored::Jsonl));
        check("{a,b}\n", Some(Stored::Csv));
        check("[a],[2026]\n1,2\n", Some(Stored::Csv));
        check("[1],[2]\n", Some(Stored::Csv));
        check("[{\"a\": 1, \"b\": 2}]", None);
        check("\u{feff} [ {\"a\": 1},\n", None);
        check("[\n  {\"a\": 1},\n", None);
        check("[[1, 2],\n [3, 4]]\n", None);
        check("[\"a\", \"b\"]\n[1, 2]\n", None);
        check("[1, true, null]\n", None);
        check("word\n", None);
        check("\0,\n", None);
    }
}
