// SPDX-License-Identifier: Apache-2.0
//! Names on the backbone: keys, prefixes, queue names, subjects and subject patterns.
//!
//! First stop of every operation: nothing unchecked goes further. The alphabet is what JetStream accepts in
//! key-value keys once `/` and `.` change places, so a valid name is valid in every implementation.

use crate::error::{Error, Result};

/// Longest key, prefix or queue name, in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// Longest subject or subject pattern, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 512;

/// How much of a refused name an error shows, in characters.
const SHOWN_CHARS: usize = 80;

/// Checks a key or a queue name: tokens of `[A-Za-z0-9_=.-]` joined by `/`, none of them empty.
///
/// # Errors
/// [`Error::InvalidKey`].
pub fn check_key(key: &str) -> Result<()> {
    let sound = key.len() <= KEY_BYTES_MAX && key.split('/').all(is_key_token);
    if sound { Ok(()) } else { Err(Error::InvalidKey { found: shown(key) }) }
}

/// Checks a subject to publish to: visible ASCII tokens joined by `.`, no wildcard.
///
/// # Errors
/// [`Error::InvalidSubject`].
pub fn check_subject(subject: &str) -> Result<()> {
    let sound = subject.len() <= SUBJECT_BYTES_MAX && subject.split('.').all(is_subject_token);
    if sound { Ok(()) } else { Err(Error::InvalidSubject { found: shown(subject) }) }
}

/// What a listing or a watch covers: `""` is everything, `"a/b/"` every key below, `"a/b"` that key alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope(String);

impl Scope {
    /// Reads a scope from its text.
    ///
    /// # Errors
    /// [`Error::InvalidKey`].
    pub fn parse(text: &str) -> Result<Self> {
        if !text.is_empty() {
            check_key(text.strip_suffix('/').unwrap_or(text))?;
        }
        Ok(Scope(text.to_owned()))
    }

    /// True where `key` lies in this scope.
    pub fn contains(&self, key: &str) -> bool {
        if self.is_prefix() { key.starts_with(&self.0) } else { key == self.0 }
    }

    /// True for a scope of many keys, false for one that names a single key.
    pub fn is_prefix(&self) -> bool {
        self.0.is_empty() || self.0.ends_with('/')
    }

    /// The text it was read from, which is also where its keys begin in byte order.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A subject pattern: `*` stands for one token, a last `>` for one or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

impl Pattern {
    /// Reads a pattern from its text.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`].
    pub fn parse(text: &str) -> Result<Self> {
        let tokens: Vec<String> = text.split('.').map(str::to_owned).collect();
        let last = tokens.len() - 1;
        let sound = text.len() <= SUBJECT_BYTES_MAX
            && tokens.iter().enumerate().all(|(at, token)| match token.as_str() {
                "*" => true,
                ">" => at == last,
                plain => is_subject_token(plain),
            });
        if sound { Ok(Pattern(tokens)) } else { Err(Error::InvalidSubject { found: shown(text) }) }
    }

    /// True where `subject` is covered by this pattern.
    pub fn matches(&self, subject: &str) -> bool {
        let mut found = subject.split('.');
        for token in &self.0 {
            match (token.as_str(), found.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (plain, Some(token)) if plain == token => {}
                _ => return false,
            }
        }
        found.next().is_none()
    }
}

fn is_key_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_=.-".contains(&b))
}

fn is_subject_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && !b".*>".contains(&b))
}

fn shown(name: &str) -> String {
    name.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for good in ["a", "a/b/c", "jobs/018f-7a.json", "A_=.-9", &"k".repeat(KEY_BYTES_MAX)] {
            assert_eq!(check_key(good), Ok(()), "{good}");
        }
        for bad in
            ["", "/", "a/", "/a", "a//b", "a b", "a*", "a>", "ä", "a\0", &"k".repeat(KEY_BYTES_MAX + 1)]
        {
            assert!(check_key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scopes() {
        let check = |scope: &str, key: &str, expected| {
            assert_eq!(Scope::parse(scope).unwrap().contains(key), expected, "{scope} {key}");
        };
        check("", "a", true);
        check("a/", "a/b", true);
        check("a/", "ab/c", false);
        check("a/", "a", false);
        check("a", "a", true);
        check("a", "a/b", false);
        assert!(Scope::parse("/").is_err() && Scope::parse("a//").is_err());
    }

    #[test]
    fn patterns() {
        let check = |pattern: &str, subject: &str, expected| {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(subject), expected, "{pattern} {subject}");
        };
        check("a.b", "a.b", true);
        check("a.b", "a.b.c", false);
        check("a.*", "a.b", true);
        check("a.*", "a", false);
        check("a.*.c", "a.b.c", true);
        check("a.>", "a.b.c", true);
        check("a.>", "a", false);
        check(">", "a.b", true);
        for bad in ["", ".", "a.", ">.a", "a.>.b", "a b", "a.**", "a>"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        assert!(
            check_subject("a.*").is_err() && check_subject("a.>").is_err() && check_subject("a.b").is_ok()
        );
    }
}
