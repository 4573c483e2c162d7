// SPDX-License-Identifier: Apache-2.0
//! Where objects lie: `s3://bucket/key`, byte for byte.
//!
//! A key is never decoded, normalised or joined as a path: `a/../b`, `a//b` and
//! `%2e` are what they are. Grants compare bytes, so nothing needs undoing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{ErrorKind, Problem},
    names::as_text,
};

/// Longest key, in bytes, as S3 has it.
pub const KEY_BYTES_MAX: usize = 1_024;

/// A bucket and a key, or a bucket and a prefix of keys (which may be empty).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectUri {
    bucket: String,
    key: String,
}

impl ObjectUri {
    /// An object's place. The bucket's name must be one that S3 allows
    /// (3 to 63 characters `a-z0-9.-`), the key at most 1,024 bytes.
    pub fn new(bucket: impl Into<String>, key: impl Into<String>) -> Result<Self, Problem> {
        let (bucket, key) = (bucket.into(), key.into());
        check_bucket(&bucket)?;
        if key.len() > KEY_BYTES_MAX {
            return Err(Problem::new(
                ErrorKind::InvalidRequest,
                format!("a key must be at most {KEY_BYTES_MAX} bytes, found {}", key.len()),
            ));
        }
        Ok(Self { bucket, key })
    }

    /// The place of one object, which must have a key.
    pub fn of_object(text: &str) -> Result<Self, Problem> {
        let uri: Self = text.parse()?;
        if uri.key.is_empty() {
            return Err(no_place(text));
        }
        Ok(uri)
    }

    /// The bucket.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key or prefix; empty when the URI names a whole bucket.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The object whose key is this one with `suffix` put behind it.
    pub fn join(&self, suffix: &str) -> Result<Self, Problem> {
        Self::new(self.bucket.clone(), format!("{}{suffix}", self.key))
    }

    /// Whether this object lies under `prefix`: same bucket, and the key starts
    /// with the prefix's bytes.
    pub fn is_under(&self, prefix: &ObjectUri) -> bool {
        self.bucket == prefix.bucket && self.key.starts_with(&prefix.key)
    }
}

/// Checks a bucket's name against S3's rules for general-purpose buckets.
pub fn check_bucket(name: &str) -> Result<(), Problem> {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let bytes = name.as_bytes();
    let shaped = (3..=63).contains(&bytes.len())
        && edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().all(|b| inner(*b))
        && !name.contains("..");
    let address = name.split('.').count() == 4 && name.split('.').all(|part| part.parse::<u8>().is_ok());
    if shaped && !address {
        return Ok(());
    }
    let found: String = name.chars().take(80).collect();
    Err(Problem::new(
        ErrorKind::InvalidName,
        format!(
            "a bucket name must be 3 to 63 lower-case letters, digits, '.' and '-', begin and end with a \
             letter or digit and not look like an address, found {found:?}"
        ),
    ))
}

fn no_place(text: &str) -> Problem {
    let found: String = text.chars().take(200).collect();
    Problem::new(
        ErrorKind::InvalidRequest,
        format!("an object's place must be written s3://bucket/key, found {found:?}"),
    )
}

impl FromStr for ObjectUri {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err(no_place(text));
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        Self::new(bucket, key)
    }
}

as_text!(ObjectUri);

impl fmt::Display for ObjectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl fmt::Debug for ObjectUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which state of an object is meant. Reads with a pin fail when the object
/// has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pin {
    /// The entity tag, without quotes.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// The version, in buckets that keep versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

/// An object in one definite state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PinnedObject {
    /// Where it lies.
    pub uri: ObjectUri,
    /// Which state of it.
    pub pin: Pin,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn uris_are_read_and_printed() {
        for text in
            ["s3://bank/a/b.csv", "s3://bank/", "s3://bank/../x", "s3://bank//a//", "s3://b-1.x/ä ?#%2e"]
        {
            assert_eq!(text.parse::<ObjectUri>().unwrap().to_string(), text);
        }
        assert_eq!("s3://bank".parse::<ObjectUri>().unwrap().to_string(), "s3://bank/");
        for text in ["", "bank/a", "http://bank/a", "s3://", "s3://B/x", "s3://ab/x", "s3://10.0.0.1/x"] {
            assert!(text.parse::<ObjectUri>().is_err(), "{text}");
        }
        assert!(format!("s3://bank/{}", "k".repeat(1_025)).parse::<ObjectUri>().is_err());
    }

    #[test]
    fn an_object_has_a_key() {
        assert_eq!(ObjectUri::of_object("s3://bank/a").unwrap().key(), "a");
        for text in ["s3://bank/", "s3://bank", "bank/a"] {
            let problem = ObjectUri::of_object(text).unwrap_err();
            assert_eq!((problem.code, problem.retryable()), (ErrorKind::InvalidRequest, false), "{text}");
            assert!(problem.detail.contains("s3://bucket/key"), "{}", problem.detail);
        }
    }

    #[test]
    fn a_prefix_is_compared_by_bytes() {
        let uri = |text: &str| text.parse::<ObjectUri>().unwrap();
        assert!(uri("s3://bank/a/b").is_under(&uri("s3://bank/a/")));
        assert!(!uri("s3://bank/ab/c").is_under(&uri("s3://bank/a/")));
        assert!(!uri("s3://other/a/b").is_under(&uri("s3://bank/a/")));
        assert!(!uri("s3://bank/x/../a/b").is_under(&uri("s3://bank/a/")));
    }

    proptest! {
        #[test]
        fn any_key_survives(key in "\\PC{0,80}") {
            let uri = ObjectUri::new("bank", key.clone()).unwrap();
            let again: ObjectUri = uri.to_string().parse().unwrap();
            prop_assert_eq!(again.key(), key);
        }
    }
}
