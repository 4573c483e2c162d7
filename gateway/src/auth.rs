// SPDX-License-Identifier: Apache-2.0
//! Who may ask: bearer tokens (RFC 6750).
//!
//! A token is 256 random bits; only its SHA-256 digest is kept, and digests are
//! compared in constant time. A digest may have a time from which on its token is good no more;
//! what was begun before goes on. The layer stands before routing, so that without
//! a token nothing but `/healthz`, `/readyz`, the console's files and the pages about
//! errors can be told from nothing: not even which paths there are. There is no mode without tokens. Only the
//! addresses of single triggers check their senders by themselves.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    slice,
    str::FromStr,
};

use axum::extract::Request;
use fanfold_protocol::{
    ErrorKind,
    time::{self, Timestamp},
};
use http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::{
    console, docs,
    problem::{Answer, Refusal},
    rfc3339,
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

/// The SHA-256 digest of a token, and when it expires, if ever.
#[derive(Clone, Copy, Debug)]
pub struct TokenDigest {
    sha256: [u8; 32],
    expires_at: Option<Timestamp>,
}

impl TokenDigest {
    /// The digest of a token's text.
    pub fn of(token: &str) -> Self {
        Self { sha256: Sha256::digest(token.as_bytes()).into(), expires_at: None }
    }

    /// The same digest of a token that is good until then.
    #[must_use]
    pub fn until(self, at: Timestamp) -> Self {
        Self { expires_at: Some(at), ..self }
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut sha256 = [0; 32];
        hex::decode_to_slice(text, &mut sha256).ok()?;
        Some(Self { sha256, expires_at: None })
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex::encode(self.sha256)
    }

    /// Whether this is the digest of that token, told in constant time.
    pub fn is_of(&self, token: &str) -> bool {
        self.sha256.ct_eq(&Self::of(token).sha256).into()
    }

    /// When it expired, where it is good no more.
    pub fn expired_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.expires_at.filter(|at| *at <= now)
    }

    fn is_good(&self, now: Timestamp) -> bool {
        self.expired_at(now).is_none()
    }
}

/// A line of a configuration's file: 64 hexadecimal digits and, where the token expires, `until`
/// and a time (RFC 3339). The error is what was expected and found, without what stands there: that may be
/// a token.
impl FromStr for TokenDigest {
    type Err = String;
    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let (digits, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let digest = Self::from_hex(digits).ok_or_else(|| {
            let found = match digits {
                token if token.starts_with(PREFIX) => "a token itself".to_owned(),
                digits if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
                    format!("{} of them", digits.len())
                }
                _ => "something else".to_owned(),
            };
            format!(
                "expected the SHA-256 digest of a token, 64 hexadecimal digits, found {found}; \
                 `printf %s \"$(cat token)\" | sha256sum` makes the digest of the one in the file token"
            )
        })?;
        if rest.is_empty() {
            return Ok(digest);
        }
        let time = rest.trim_start().strip_prefix("until ").map(str::trim);
        let at = time.and_then(rfc3339::time);
        let at = at.ok_or(
            "expected `until` and a time such as 2027-06-30T00:00:00Z behind the digits, found something else",
        )?;
        Ok(digest.until(at))
    }
}

/// Whether the request carries one of the tokens that are good now. Looks at all of them,
/// whatever it finds.
pub(crate) fn is_authorized(headers: &HeaderMap, tokens: &[TokenDigest], now: Timestamp) -> bool {
    whose(headers, tokens.iter().filter(|token| token.is_good(now)).map(slice::from_ref)).is_some()
}

/// Which of several sets of tokens holds the one that the request carries. Looks at
/// all of them, whatever it finds.
pub(crate) fn whose<'a>(
    headers: &HeaderMap,
    sets: impl IntoIterator<Item = &'a [TokenDigest]>,
) -> Option<usize> {
    let found = TokenDigest::of(bearer(headers)?);
    let (mut any, mut whose) = (Choice::from(0), 0);
    for (at, tokens) in (0_u64..).zip(sets) {
        for token in tokens {
            let is_it = token.sha256.ct_eq(&found.sha256);
            whose.conditional_assign(&at, is_it);
            any |= is_it;
        }
    }
    bool::from(any).then(|| usize::try_from(whose).ok()).flatten()
}

/// What is sent as a token.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a path needs no token.
pub(crate) fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// Whether everybody may ask for this path; what is answered there lies in memory in any case.
pub(crate) fn is_public(path: &str) -> bool {
    is_open(path) || console::is_asset(path) || docs::is_page(path)
}

/// Lets nobody else through.
pub(crate) fn require(app: &AppState, request: &Request) -> Answer<()> {
    let path = request.uri().path();
    if is_public(path)
        || sender::checks_itself(path)
        || is_authorized(request.headers(), &app.config.tokens, time::now())
    {
        return Ok(());
    }
    if path == sender::ADDRESS_OF_ALL {
        app.triggers.counters().refused(ErrorKind::Unauthorized);
    }
    let found = found(request.headers(), &app.config.tokens);
    Err(Refusal::new(
        ErrorKind::Unauthorized,
        format!(
            "expected 'Authorization: Bearer' and a token of this service, found {found}; \
             set --token or FANFOLD_TOKEN to the one that `fanfold dev` or your operator gave you"
        ),
    ))
}

/// What stands in the place of a token that is good, where none is. Nothing of what was sent is
/// shown: a secret may stand anywhere in it.
fn found(headers: &HeaderMap, tokens: &[TokenDigest]) -> String {
    let expired = whose(headers, tokens.iter().map(slice::from_ref)).and_then(|at| tokens[at].expires_at);
    match expired {
        Some(at) => format!("one that expired at {at}"),
        None if is_digest(headers, tokens) => {
            "what `token_digests` has as the digest of one; the digest of this one belongs there, if it is one"
                .to_owned()
        }
        None => unknown(headers).to_owned(),
    }
}

/// Whether a digest is sent in place of its token. A token of 64 hexadecimal digits that stands itself in the
/// file looks like one, so the file cannot be refused for it.
fn is_digest(headers: &HeaderMap, tokens: &[TokenDigest]) -> bool {
    let Some(sent) = bearer(headers).and_then(TokenDigest::from_hex) else { return false };
    tokens.iter().fold(Choice::from(0), |any, token| any | token.sha256.ct_eq(&sent.sha256)).into()
}

fn unknown(headers: &HeaderMap) -> &'static str {
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
            assert_eq!(found(&headers, &[]), expected, "{values:?}");
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
    fn a_token_is_good_until_it_expires() {
        let line = format!("{} until 1970-01-01T00:00:09Z", TokenDigest::of("one").to_hex());
        let tokens = [line.parse().unwrap(), TokenDigest::of("two")];
        let headers = |token: &str| {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            HeaderMap::from_iter([(header::AUTHORIZATION, value)])
        };
        let check = |token: &str, now: u64, expected| {
            assert_eq!(is_authorized(&headers(token), &tokens, Timestamp(now)), expected, "{token} at {now}");
        };
        check("one", 8_999, true);
        check("one", 9_000, false);
        check("two", 9_000, true);
        assert_eq!(found(&headers("one"), &tokens), "one that expired at 1970-01-01T00:00:09.000Z");
        assert_eq!(found(&headers("three"), &tokens), "another");
        let digest = TokenDigest::of("two").to_hex();
        assert!(found(&headers(&digest), &tokens).starts_with("what `token_digests` has as the digest"));
        assert!(!is_authorized(&headers(&digest), &tokens, Timestamp(7)));
        assert_eq!(found(&headers(&TokenDigest::of("three").to_hex()), &tokens), "another");
    }

    #[test]
    fn lines_of_digests_are_checked() {
        let digits = "5f".repeat(32);
        let read = |line: &str| line.parse::<TokenDigest>().map(|digest| digest.expires_at.map(|at| at.0));
        let check = |rest: &str, expected: Result<Option<u64>, &str>| {
            let expected = expected.map_err(str::to_owned);
            assert_eq!(read(&format!("{digits}{rest}")), expected, "{rest:?}");
        };
        let no_time = Err(
            "expected `until` and a time such as 2027-06-30T00:00:00Z behind the digits, found something else",
        );
        check("", Ok(None));
        check(" until 1970-01-01T00:00:09Z", Ok(Some(9_000)));
        check("\tuntil  1970-01-01 00:00:09", Ok(Some(9_000)));
        check(" until 1970-01-01T05:00:09.250+05:00", Ok(Some(9_250)));
        check(" 1970-01-01T00:00:09Z", no_time);
        check(" until tomorrow", no_time);
        check(" until 1969-01-01T00:00:00Z", no_time);
        let refused = |line: &str, found: &str| {
            let told = read(line).unwrap_err();
            let expected = "expected the SHA-256 digest of a token, 64 hexadecimal digits, found ";
            assert!(told.starts_with(&format!("{expected}{found}; ")) && !told.contains(line), "{told}");
        };
        refused(&format!("{digits}0"), "65 of them");
        refused(&digits[..40], "40 of them");
        refused(&format!("{PREFIX}{digits}"), "a token itself");
        refused("correct-horse", "something else");
        refused(&format!("sha256:{digits}"), "something else");
    }

    #[test]
    fn only_the_tokens_are_let_through() {
        let tokens = [TokenDigest::of("one"), TokenDigest::of("two")];
        let check = |values: &[&str], expected| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(is_authorized(&headers, &tokens, Timestamp(7)), expected, "{values:?}");
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
