// SPDX-License-Identifier: Apache-2.0
//! Who may ask: bearer tokens (RFC 6750).
//!
//! A token is 256 random bits; only its SHA-256 digest is kept, and digests are
//! compared in constant time. The layer stands before routing, so that without
//! a token nothing but `/healthz`, `/readyz`, the console's files and the pages about
//! errors can be told from nothing: not even which paths there are. There is no mode without tokens. Only the
//! addresses of single triggers check their senders by themselves.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use axum::extract::Request;
use fanfold_protocol::ErrorKind;
use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::{
    console, docs,
    problem::{Answer, Refusal},
    state::AppState,
    triggers::sender,
};

/// What tokens begin with, so that people and scanners know one when they see it.
const PREFIX: &str = "ff_";
/// The paths that need no token: probes of orchestrators carry none.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// A secret that opens the API. Its text is shown only when asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// A new one, from the operating system's randomness.
    ///
    /// # Errors
    /// When there is no randomness to be had.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(format!("{PREFIX}{}", hex::encode(bytes))))
    }

    /// The token kept in this file, made (mode 0600) when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written, is open to others, or holds no token.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        if path.try_exists()? {
            return Self::load(path);
        }
        let token = Self::generate()?;
        // Whole or not at all: a crash must not leave a file without a token.
        let draft = path.with_extension("new");
        let _ = fs::remove_file(&draft);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(token.0.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        Ok(token)
    }

    fn load(path: &Path) -> io::Result<Self> {
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(io::Error::other(format!(
                "the token in {} must be readable by its owner only, found mode {mode:03o}; \
                 run chmod 600 on it, or remove it for a new one",
                path.display()
            )));
        }
        let text = fs::read_to_string(path)?;
        let digits = text.trim().strip_prefix(PREFIX).unwrap_or_default();
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(io::Error::other(format!(
                "expected a token ({PREFIX} and 64 hexadecimal digits) in {}, found something else; \
                 remove the file for a new one",
                path.display()
            )));
        }
        Ok(Self(text.trim().to_owned()))
    }

    /// The secret itself, for its owner.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What a gateway is configured with.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(&self.0)
    }
}

/// The SHA-256 digest of a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a token's text.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Reads 64 hexadecimal digits, as configuration files have it.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// Whether this is the digest of that token, told in constant time.
    pub fn is_of(&self, token: &str) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }
}

/// Whether the request carries one of the tokens. Looks at all of them,
/// whatever it finds.
pub(crate) fn is_authorized(headers: &HeaderMap, tokens: &[TokenDigest]) -> bool {
    whose(headers, [tokens]).is_some()
}

/// Which of several sets of tokens holds the one that the request carries. Looks at
/// all of them, whatever it finds.
pub(crate) fn whose<'a>(
    headers: &HeaderMap,
    sets: impl IntoIterator<Item = &'a [TokenDigest]>,
) -> Option<usize> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let found = TokenDigest::of(token.trim());
    let (mut any, mut whose) = (Choice::from(0), 0);
    for (at, tokens) in (0_u64..).zip(sets) {
        for token in tokens {
            let is_it = token.0.ct_eq(&found.0);
            whose.conditional_assign(&at, is_it);
            any |= is_it;
        }
    }
    bool::from(any).then(|| usize::try_from(whose).ok()).flatten()
}

/// Whether a path needs no token.
pub(crate) fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// Lets nobody else through.
pub(crate) fn require(app: &AppState, request: &Request) -> Answer<()> {
    let path = request.uri().path();
    if is_open(path)
        || console::is_asset(path)
        || docs::is_page(path)
        || sender::checks_itself(path)
        || is_authorized(request.headers(), &app.config.tokens)
    {
        return Ok(());
    }
    if path == sender::ADDRESS_OF_ALL {
        app.triggers.counters().refused(ErrorKind::Unauthorized);
    }
    let found = found(request.headers());
    Err(Refusal::new(
        ErrorKind::Unauthorized,
        format!(
            "expected 'Authorization: Bearer' and a token of this service, found {found}; \
             set --token or FANFOLD_TOKEN to the one that `fanfold dev` or your operator gave you"
        ),
    ))
}

/// What stands in the place of a token. Nothing of what was sent is shown: a secret may
/// stand anywhere in it.
fn found(headers: &HeaderMap) -> &'static str {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return "none" };
    if values.next().is_some() {
        return "more than one";
    }
    let text = value.to_str().unwrap_or("?").trim();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    match (scheme.to_ascii_lowercase().as_str(), token.trim()) {
        ("bearer" | "", "") => "an empty one",
        ("bearer", _) => "another",
        ("basic", _) => "Basic instead of Bearer",
        _ => "something else than Bearer",
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tokens_are_kept_in_a_file_of_ones_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token = Token::load_or_create(&path).unwrap();
        assert_eq!(Token::load_or_create(&path).unwrap(), token);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(token.reveal().len(), 67);
        assert!(!format!("{token:?}").contains(&token.reveal()[3..]));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Token::load_or_create(&path).unwrap_err().to_string().contains("mode 644"));
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Token::load_or_create(&path).unwrap_err().to_string().contains("expected a token"));
    }

    #[test]
    fn what_was_found_is_said_without_secrets() {
        let check = |values: &[&str], expected| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(found(&headers), expected, "{values:?}");
        };
        check(&[], "none");
        check(&["Bearer one", "Bearer two"], "more than one");
        check(&["Bearer three"], "another");
        for empty in ["", "Bearer", "bearer ", "Bearer  "] {
            check(&[empty], "an empty one");
        }
        check(&["Basic c2VjcmV0"], "Basic instead of Bearer");
        check(&["ff_secret"], "something else than Bearer");
    }

    #[test]
    fn only_the_tokens_are_let_through() {
        let tokens = [TokenDigest::of("one"), TokenDigest::of("two")];
        let check = |values: &[&str], expected| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(is_authorized(&headers, &tokens), expected, "{values:?}");
        };
        check(&["Bearer one"], true);
        check(&["bearer two"], true);
        check(&["Bearer three"], false);
        check(&["Bearer "], false);
        check(&["Basic one"], false);
        check(&["one"], false);
        check(&[], false);
        check(&["Bearer one", "Bearer two"], false);
        let sets = [&tokens[..1], &[], &tokens[1..]];
        for (token, expected) in [("one", Some(0)), ("two", Some(2)), ("three", None)] {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            assert_eq!(whose(&HeaderMap::from_iter([(header::AUTHORIZATION, value)]), sets), expected);
        }
    }
}
