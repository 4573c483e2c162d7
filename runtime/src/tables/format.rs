//! How an object is stored: by its first bytes, then its name, then its text.

use bytes::Bytes;
use fanfold_protocol::{
    ErrorKind, Problem,
    job::{CsvOptions, Format},
    plan::Slice,
};

use super::text::Compressed;

/// A format that is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Parquet,
    Csv,
    Jsonl,
    ArrowFile,
    ArrowStream,
}

/// The first bytes of an Arrow file, as of a Parquet one `PAR1`.
const ARROW: &[u8] = b"ARROW1";
const PARQUET: &[u8] = b"PAR1";
/// How every message of an Arrow stream begins.
const MESSAGE: &[u8] = &[0xff; 4];

/// What the object's name says, compression's suffix aside.
pub(super) fn by_name(key: &str) -> Option<Stored> {
    let key = key.to_ascii_lowercase();
    let bare = [".gz", ".zst"].iter().find_map(|suffix| key.strip_suffix(suffix)).unwrap_or(&key);
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

/// The format of a slice's object that begins with `head`; `text` is the
/// beginning of its text when it is compressed.
pub(super) fn tell(
    slice: &Slice,
    asked: Format,
    head: &Bytes,
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
            let told =
                by_magic(head).or_else(|| by_name(slice.object.uri.key())).or_else(|| by_text(text, csv));
            told.ok_or_else(|| unknown(slice, head))?
        }
    };
    let binary = !matches!(stored, Stored::Csv | Stored::Jsonl);
    if binary && Compressed::of(head) != Compressed::No {
        let detail = format!(
            "{} must not be compressed as a whole to be read as {}, found compressed data; decompress it",
            slice.object.uri,
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
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
    let line = text.split(|b| *b == b'\n').next()?;
    let line = str::from_utf8(line).ok().filter(|l| !l.contains('\0'))?;
    if line.starts_with('{') && serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok() {
        Some(Stored::Jsonl)
    } else if line.contains(csv.delimiter) {
        Some(Stored::Csv)
    } else {
        None
    }
}

fn unknown(slice: &Slice, head: &[u8]) -> Problem {
    let shown: Vec<String> = head.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let detail = format!(
        "{} must be Parquet, CSV, JSON Lines or Arrow by its content or name, found the first bytes {}; say which \
         with format",
        slice.object.uri,
        shown.join(" ")
    );
    Problem::new(ErrorKind::FormatUnknown, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell() {
        let check = |key: &str, expected| assert_eq!(by_name(key), expected, "{key}");
        check("a/b.PARQUET", Some(Stored::Parquet));
        check("x.csv.gz", Some(Stored::Csv));
        check("x.ndjson.zst", Some(Stored::Jsonl));
        check("a.csv/b", None);
        check("csv", None);
        check("x.gz", None);
    }

    #[test]
    fn text_tells() {
        let check = |text: &str, expected| {
            assert_eq!(by_text(text.as_bytes(), &CsvOptions::default()), expected, "{text}")
        };
        check("a,b\n1,2\n", Some(Stored::Csv));
        check("{\"a\": [1, 2]}\n", Some(Stored::Jsonl));
        check("{a,b}\n", Some(Stored::Csv));
        check("word\n", None);
        check("\0,\n", None);
    }
}
