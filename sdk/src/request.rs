// SPDX-License-Identifier: Apache-2.0
//! What a handler is given, and how its arguments are made of it.
//!
//! It owns the request and the extraction of typed arguments from it. A
//! `#[fanfold::handler]` asks [`FromRequest`] for each of its arguments before
//! the author's code runs. Invariant: whatever does not fit is refused with a
//! code of its own and says what was expected; a body is taken once.

use std::fmt::Display;
use std::ops::Deref;

use serde::de::DeserializeOwned;

use crate::{Context, Error, Params, Result, json};

/// A request, whole: an HTTP call or an event.
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// let request = Request::new(r#"{"n": 2}"#).with_query("verbose=1").with_header("Accept", "text/plain");
/// assert_eq!(request.header("accept"), Some("text/plain"));
/// assert_eq!(request.query, "verbose=1");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The HTTP method, in capitals.
    pub method: String,
    /// The query string without `?`; empty when there is none.
    pub query: String,
    /// Names in lower case. Credentials are not among them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// A body as it is.
pub type Bytes = Vec<u8>;

impl Request {
    /// A `POST` with this body, for tests.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { method: "POST".to_owned(), query: String::new(), headers: Vec::new(), body: body.into() }
    }

    /// The same request with another method.
    #[must_use]
    pub fn with_method(mut self, method: &str) -> Self {
        self.method = method.to_ascii_uppercase();
        self
    }

    /// The same request with a query string, without `?`.
    #[must_use]
    pub fn with_query(mut self, query: impl Into<String>) -> Self {
        self.query = query.into();
        self
    }

    /// The same request with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body read as JSON.
    ///
    /// # Errors
    ///
    /// `invalid-body`, naming the member that does not fit.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        if self.body.is_empty() {
            return Err(unfit_body(": expected a JSON value, found an empty body"));
        }
        json::read(&self.body).map_err(|unfit| unfit_body(&unfit))
    }

    /// The query string read into `T`: `a=1&b=x` fits a struct of `a` and `b`.
    ///
    /// # Errors
    ///
    /// `invalid-query`, saying what does not fit.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T> {
        let refused = |unfit: &dyn Display| {
            Error::new("invalid-query", format!("query `{}`: {unfit}; mend the query string", self.query))
        };
        if !is_text(&self.query) {
            return Err(refused(&"expected UTF-8, found other bytes"));
        }
        serde_urlencoded::from_str(&self.query).map_err(|unfit| refused(&unfit))
    }
}

/// Whether what is written in a query is UTF-8. What reads it puts a sign of its own in the place of
/// other bytes.
fn is_text(query: &str) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Vec::with_capacity(query.len());
    let mut rest = query.as_bytes();
    while let [byte, after @ ..] = rest {
        let escaped = match after {
            [high, low, ..] if *byte == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        bytes.push(escaped.map_or(*byte, |(high, low)| (high * 16 + low) as u8));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    std::str::from_utf8(&bytes).is_ok()
}

fn unfit_body(unfit: &str) -> Error {
    Error::new("invalid-body", format!("body{unfit}; send the JSON that the function expects"))
}

/// What an argument of a handler can be made of.
///
/// Implemented for [`Json`], [`Query`], [`Params`], [`Context`], [`Request`],
/// `String` and `Vec<u8>`; implement it for a type of your own to have it as an
/// argument.
#[diagnostic::on_unimplemented(
    message = "a handler cannot take `{Self}`",
    label = "not an argument of a handler",
    note = "take the body as `Json<T>`, `ObjectEvent`, `String`, `Vec<u8>` or `Request`; besides it `Query<T>`, `&Params<T>` and `&Context`"
)]
pub trait FromRequest: Sized {
    /// Makes the argument, taking from the request what it needs.
    ///
    /// # Errors
    ///
    /// When the request does not fit.
    fn from_request(request: &mut Request) -> Result<Self>;
}

/// The body as JSON, or the answer as JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// The query string, read into `T`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query<T>(pub T);

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Deref for Query<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: DeserializeOwned> FromRequest for Json<T> {
    fn from_request(request: &mut Request) -> Result<Self> {
        request.json().map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest for Query<T> {
    fn from_request(request: &mut Request) -> Result<Self> {
        request.query().map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest for Params<T> {
    fn from_request(_: &mut Request) -> Result<Self> {
        Self::current()
    }
}

impl FromRequest for Context {
    fn from_request(_: &mut Request) -> Result<Self> {
        Ok(Self::current())
    }
}

impl FromRequest for Request {
    fn from_request(request: &mut Request) -> Result<Self> {
        Ok(std::mem::replace(request, Self::new(Bytes::new())))
    }
}

impl FromRequest for Bytes {
    fn from_request(request: &mut Request) -> Result<Self> {
        Ok(std::mem::take(&mut request.body))
    }
}

impl FromRequest for String {
    fn from_request(request: &mut Request) -> Result<Self> {
        Self::from_utf8(std::mem::take(&mut request.body)).map_err(|unfit| {
            Error::new(
                "invalid-body",
                format!("body: expected UTF-8 text, found {}; send text", unfit.utf8_error()),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromRequest>(mut request: Request, code: &str, words: &str) {
        let error = T::from_request(&mut request).err().expect("refused");
        assert_eq!(error.code(), code);
        assert!(error.message().contains(words), "{}", error.message());
    }

    #[derive(serde::Deserialize)]
    struct Page {
        #[allow(dead_code)]
        page: u32,
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        check::<Json<String>>(
            Request::new("5"),
            "invalid-body",
            "invalid type: integer `5`, expected a string",
        );
        check::<Json<String>>(Request::new(""), "invalid-body", "found an empty body");
        check::<Json<Page>>(Request::new(r#"{"page": "x"}"#), "invalid-body", "body.page: ");
        check::<Json<u8>>(Request::new("1 2"), "invalid-body", "trailing characters");
        check::<String>(Request::new(vec![0xff]), "invalid-body", "expected UTF-8");
        check::<Query<Page>>(Request::new("").with_query("page=x"), "invalid-query", "page=x");
        let latin = Request::new("").with_query("page=7&name=z%e4hlt");
        check::<Query<Page>>(latin, "invalid-query", "expected UTF-8");
    }

    #[test]
    fn queries_are_text() {
        for (query, expected) in [
            ("", true),
            ("name=z%c3%A4hlt+%E2%82%AC", true),
            ("100%&%zz&%4&%e", true),
            ("zählt=%25", true),
            ("%FF", false),
            ("%c3%", false),
            ("a=%c3&b=%a4", false),
        ] {
            assert_eq!(is_text(query), expected, "{query}");
        }
    }

    #[test]
    fn what_fits_is_taken() {
        let mut request = Request::new("abc").with_query("page=7");
        assert_eq!(Query::<Page>::from_request(&mut request).unwrap().page, 7);
        assert_eq!(String::from_request(&mut request).unwrap(), "abc");
        assert!(Bytes::from_request(&mut request).unwrap().is_empty());
    }
}
