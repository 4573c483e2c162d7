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

/// What the object's name says, compression's suffix aside.
pub fn by_name(key: &str) -> Option<Stored> {
    let key = key.to_ascii_lowercase();
    let bare = COMPRESSED_SUFFIXES.iter().find_map(|suffix| key.strip_suffix(suffix)).unwrap_or(&key);
    let name = bare.rsplit('/').next().unwrap_or_default();
    match name.rsplit_once('.')?.1 {
        "parquet" | "pq" => Some(Stored::Parquet),
        "csv" | "tsv" => Some(Stored::Csv),
        "jsonl" | "ndjson" => Some(Stored::Jsonl),
        "arrow" | "feather" | "ipc" => Some(Stored::ArrowFile),
        "arrows" => Some(Stored::ArrowStream),
        _ => None,
    }
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
    } else if line.contains(csv.delimiter) {
        Some(Stored::Csv)
    } else {
        None
    }
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
            "{uri} must be Parquet, CSV, JSON Lines or Arrow, found an array of JSON; write its objects one a line, or \
             the rows as CSV"
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
    fn names_tell() {
        let check = |key: &str, expected| assert_eq!(by_name(key), expected, "{key}");
        check("a/b.PARQUET", Some(Stored::Parquet));
        check("x.csv.gz", Some(Stored::Csv));
        check("x.ndjson.zst", Some(Stored::Jsonl));
        check("a.csv/b", None);
        check("csv", None);
        check("x.gz", None);
        assert!(is_parquet_by_name("a/b.pq") && !is_parquet_by_name("a/b.parquet.gz"));
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
