// SPDX-License-Identifier: Apache-2.0
//! What commands read of files and streams that they are given.
//!
//! Invariant: no more than the platform takes, so that a wrong file, or a device that has no
//! end, is refused before memory is full.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::Path,
};

use fanfold_protocol::{limits, size::ByteSize};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    json_text,
};

/// What stands for the standard input.
const STREAM: &str = "-";

/// All of a file.
///
/// # Errors
/// [`ErrorKind::FileTooLarge`] where it has more than `bytes_max`.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    all(File::open(path)?, bytes_max)
}

/// All of a file of text.
///
/// # Errors
/// As of [`read`]; [`ErrorKind::InvalidData`] where it is not UTF-8.
pub fn text(path: &Path, bytes_max: u64) -> io::Result<String> {
    utf_8(read(path, bytes_max)?)
}

fn is_stream(path: &Path) -> bool {
    path.as_os_str() == STREAM
}

fn utf_8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("what is not UTF-8: {error}")))
}

/// All of a file of text, or of the standard input where that is [`STREAM`].
///
/// # Errors
/// As of [`text`].
pub fn text_or_stream(path: &Path, bytes_max: u64) -> io::Result<String> {
    match is_stream(path) {
        true => utf_8(all(io::stdin().lock(), bytes_max)?),
        false => text(path, bytes_max),
    }
}

/// What a person calls it.
pub fn name(path: &Path) -> String {
    if is_stream(path) { "the standard input".to_owned() } else { path.display().to_string() }
}

/// Why a text is no JSON, with the file that may have been meant.
pub fn file_meant(option: &str, text: &str, error: Error) -> Error {
    if Path::new(text).is_file() { error.help(format!("did you mean {option} @{text}?")) } else { error }
}

/// What `--params` stands for: a JSON object, or `@` and a file with one.
pub fn params(text: &str) -> Result<Value> {
    let Some(path) = text.strip_prefix('@') else {
        return json_text::object("--params", text).map_err(|error| file_meant("--params", text, error));
    };
    let content = self::text(Path::new(path), limits::DOCUMENT_BYTES_MAX)
        .map_err(|cause| Error::usage(format!("expected parameters as JSON in {path}, found: {cause}")))?;
    json_text::object(path, &content)
}

/// All of a stream.
///
/// # Errors
/// As of [`read`].
pub fn all(from: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let found = format!("more than {}, the most that is taken", ByteSize(bytes_max));
        return Err(io::Error::new(ErrorKind::FileTooLarge, found));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_is_taken() {
        assert_eq!(all(&b"abcd"[..], 4).unwrap(), b"abcd");
        let error = all(&b"abcde"[..], 4).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        let error = read(Path::new("/dev/zero"), 1 << 20).unwrap_err();
        assert_eq!(error.to_string(), "more than 1MiB, the most that is taken");
        assert_eq!(read(Path::new("/dev/null"), 0).unwrap(), b"");
    }

    #[test]
    fn a_file_without_its_sign_is_suggested() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        assert_eq!(params(&path).unwrap_err().advice(), format!("did you mean --params @{path}?"));
        assert!(params("no such file").unwrap_err().advice().starts_with("text needs quotes"));
    }

    #[test]
    fn text_is_utf_8() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job.toml");
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(text(&path, 1).unwrap_err().kind(), ErrorKind::InvalidData);
        std::fs::write(&path, "ä").unwrap();
        assert_eq!(text(&path, 2).unwrap(), "ä");
        assert_eq!(text(&dir.path().join("none"), 2).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
