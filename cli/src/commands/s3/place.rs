// SPDX-License-Identifier: Apache-2.0
//! What a person names on the command line: an object, a prefix, a file.
//!
//! Pure. Invariant: a path made of a key lies under the folder it was made for.

use std::path::{Path, PathBuf};

use fanfold_protocol::uri::ObjectUri;

use crate::error::{Error, Result};

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// In the store.
    Object(ObjectUri),
    /// On this machine.
    File(PathBuf),
    /// Standard input or output.
    Stream,
}

/// Reads one side of a copy.
pub fn side(text: &str) -> Result<Side> {
    match text {
        "-" => Ok(Side::Stream),
        _ if text.starts_with("s3://") => Ok(Side::Object(prefix(text)?)),
        _ => Ok(Side::File(PathBuf::from(text))),
    }
}

/// A bucket, a prefix or an object.
pub fn prefix(text: &str) -> Result<ObjectUri> {
    Ok(text.parse::<ObjectUri>()?)
}

/// The folder that a place means where all in it is meant: `s3://bank/in` is `in/`, and neither `in2/` nor
/// `income.csv`, whose keys begin alike.
pub fn folder(place: &ObjectUri) -> Result<ObjectUri> {
    let is_folder = place.key().is_empty() || place.key().ends_with('/');
    if is_folder { Ok(place.clone()) } else { Ok(place.join("/")?) }
}

/// One object, where all in a folder could be meant.
pub fn object(text: &str) -> Result<ObjectUri> {
    named(text, "say --recursive for all in a folder")
}

/// The object that a stream becomes.
pub fn of_stream(text: &str) -> Result<ObjectUri> {
    named(text, "a stream has no name, so give the whole key")
}

fn named(text: &str, otherwise: &str) -> Result<ObjectUri> {
    let uri = prefix(text)?;
    if uri.key().is_empty() || uri.key().ends_with('/') {
        return Err(Error::usage(format!(
            "expected an object such as s3://{}/key, found {text}",
            uri.bucket()
        ))
        .help(otherwise));
    }
    Ok(uri)
}

/// Where a file goes: a place that ends in `/` keeps the file's name.
pub fn target_object(to: &ObjectUri, name: &str) -> Result<ObjectUri> {
    let keeps_name = to.key().is_empty() || to.key().ends_with('/');
    if keeps_name { Ok(to.join(name)?) } else { Ok(to.clone()) }
}

/// Where an object goes: a folder, there already or written with `/`, keeps the
/// last part of its key.
pub fn target_file(to: &Path, from: &ObjectUri) -> Result<PathBuf> {
    let written_as_folder = to.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !written_as_folder && !to.is_dir() {
        return Ok(to.to_owned());
    }
    let name = from.key().rsplit('/').next().unwrap_or_default();
    under(to, name, from.key())
}

/// The file for a key below a prefix.
pub fn under(folder: &Path, relative: &str, key: &str) -> Result<PathBuf> {
    let fits = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    if relative.split('/').all(fits) {
        return Ok(folder.join(relative));
    }
    Err(Error::usage(format!("expected a key that can be a file's name, found {key:?}"))
        .help("copy that object by itself, to a file with a name of your own"))
}

/// The content type for a name's ending.
pub fn content_type(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    Some(match ending.to_ascii_lowercase().as_str() {
        "csv" => "text/csv",
        "json" => "application/json",
        "jsonl" | "ndjson" => "application/x-ndjson",
        "parquet" => "application/vnd.apache.parquet",
        "arrow" | "feather" => "application/vnd.apache.arrow.file",
        "wasm" => "application/wasm",
        "html" => "text/html; charset=utf-8",
        "txt" | "md" => "text/plain; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "gz" => "application/gzip",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> ObjectUri {
        text.parse().unwrap()
    }

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(side("-").unwrap(), Side::Stream);
        assert_eq!(side("s3://bank/a").unwrap(), Side::Object(uri("s3://bank/a")));
        assert_eq!(side("a/b.csv").unwrap(), Side::File("a/b.csv".into()));
        assert!(side("s3://B/a").is_err());
        assert!(
            object("s3://bank/").is_err() && object("s3://bank/a/").is_err() && object("s3://bank/a").is_ok()
        );
    }

    #[test]
    fn what_is_no_object_is_told_what_to_do() {
        assert!(object("s3://bank/a/").unwrap_err().advice().contains("--recursive"));
        assert!(of_stream("s3://bank/a/").unwrap_err().advice().contains("the whole key"));
        assert_eq!(of_stream("s3://bank/a").unwrap(), uri("s3://bank/a"));
    }

    #[test]
    fn a_folder_ends_where_its_name_does() {
        let check = |place: &str, expected: &str| assert_eq!(folder(&uri(place)).unwrap(), uri(expected));
        check("s3://bank", "s3://bank");
        check("s3://bank/", "s3://bank/");
        check("s3://bank/in", "s3://bank/in/");
        check("s3://bank/in/", "s3://bank/in/");
        check("s3://bank/in/deep", "s3://bank/in/deep/");
    }

    #[test]
    fn folders_keep_names() {
        let check =
            |to: &str, expected: &str| assert_eq!(target_object(&uri(to), "x.csv").unwrap(), uri(expected));
        check("s3://bank", "s3://bank/x.csv");
        check("s3://bank/a/", "s3://bank/a/x.csv");
        check("s3://bank/a", "s3://bank/a");
        let dir = tempfile::tempdir().unwrap();
        let file = |to: &Path| target_file(to, &uri("s3://bank/a/x.csv")).unwrap();
        assert_eq!(file(dir.path()), dir.path().join("x.csv"));
        assert_eq!(file(Path::new("new/")), Path::new("new/x.csv"));
        assert_eq!(file(Path::new("new")), Path::new("new"));
        assert!(target_file(dir.path(), &uri("s3://bank/a/..")).is_err());
    }

    #[test]
    fn keys_stay_in_their_folder() {
        let check =
            |key: &str, good: bool| assert_eq!(under(Path::new("d"), key, key).is_ok(), good, "{key}");
        check("a/b.csv", true);
        check("a b/ä", true);
        for key in ["../x", "a/../../x", "/etc/passwd", "a//b", "a/", "", ".", "a\0b"] {
            check(key, false);
        }
    }
}
