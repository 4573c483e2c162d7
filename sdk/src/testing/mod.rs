// SPDX-License-Identifier: Apache-2.0
//! Runs functions natively, in an author's own unit tests.
//!
//! It owns a host made of memory: the same code that a component exports runs
//! against it, without wasm and without a platform. The attributes make a type
//! of the function's own name, which is what the calls below are told:
//! `testing::call::<hello>(…)`. Invariant: identity, clock and randomness are
//! fixed, so a test answers alike each time.
//!
//! ```
//! use fanfold_sdk::prelude::*;
//! use fanfold_sdk::testing::{self, Env};
//!
//! #[fanfold::handler]
//! fn greet(name: String, context: &Context) -> String {
//!     fanfold::info!("greeting {name}");
//!     format!("{} {name}", context.variable("GREETING").unwrap_or_default())
//! }
//!
//! let mut env = Env::new().variable("GREETING", "hello");
//! assert_eq!(env.call::<greet>("Ada")?.text(), "hello Ada");
//! assert_eq!(env.logs(), ["info: greeting Ada"]);
//! # Ok::<(), Error>(())
//! ```

#[cfg(feature = "tables")]
pub(crate) mod files;
#[cfg(feature = "tables")]
mod fit;
#[cfg(feature = "tables")]
mod jsonl;
#[cfg(feature = "tables")]
mod tables;
#[cfg(feature = "tables")]
mod text;

use serde::Serialize;

use crate::context::Level;
use crate::handler::{self, Handler};
use crate::host::{self, Memory};
use crate::{Json, Request, Response, Result};

#[cfg(feature = "tables")]
pub use tables::{IntoTable, Table, aggregate, group, map};

/// Calls a handler with a body: `Json(value)`, text, bytes, or a whole
/// [`Request`].
///
/// # Errors
///
/// Those of the handler.
pub fn call<H: Handler>(body: impl IntoRequest) -> Result<Response> {
    Env::new().call::<H>(body)
}

/// What a native run sees, and what it left behind.
#[derive(Debug, Clone, Default)]
pub struct Env {
    memory: Memory,
}

impl Env {
    /// No parameters, no variables, no objects, 30 seconds left.
    pub fn new() -> Self {
        Self::default()
    }

    /// With parameters: `json!({…})`, or any value that serialises to JSON.
    /// `()` stands for none.
    #[must_use]
    pub fn params(mut self, params: impl Serialize) -> Self {
        self.memory.params = params_text(&params);
        self
    }

    /// With a variable of the `[env]` table.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.memory.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With an object at `s3://bucket/key`. A table is an object, too.
    #[must_use]
    pub fn object(mut self, uri: &str, content: impl Into<Vec<u8>>) -> Self {
        self.memory.objects.insert(uri.to_owned(), content.into());
        self
    }

    /// On a later attempt than the first.
    #[must_use]
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.memory.invocation.attempt = attempt;
        self
    }

    /// With this much time left.
    #[must_use]
    pub fn remaining(mut self, time: std::time::Duration) -> Self {
        self.memory.remaining_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// At a moment, in milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn now_ms(mut self, now_ms: u64) -> Self {
        self.memory.now_ms = now_ms;
        self
    }

    /// Calls a handler; see [`call`].
    ///
    /// # Errors
    ///
    /// Those of the handler.
    pub fn call<H: Handler>(&mut self, body: impl IntoRequest) -> Result<Response> {
        let request = body.into_request()?;
        self.run(|| handler::answer::<H>(request))
    }

    /// Runs any code that uses a [`crate::Context`].
    pub fn run<T>(&mut self, code: impl FnOnce() -> T) -> T {
        let before = host::with_memory(|memory| std::mem::replace(memory, std::mem::take(&mut self.memory)));
        let mut restored = Restore { env: self, before };
        let value = code();
        restored.back();
        value
    }

    /// The lines logged so far: `level: text`.
    pub fn logs(&self) -> Vec<String> {
        let word = |level: &Level| format!("{level:?}").to_lowercase();
        self.memory.logs.iter().map(|(level, text)| format!("{}: {text}", word(level))).collect()
    }

    /// The last progress told: done units, of a total when that was known.
    pub fn progress(&self) -> Option<(u64, Option<u64>)> {
        self.memory.progress
    }

    /// The content of an object, as it is now.
    pub fn content(&self, uri: &str) -> Option<&[u8]> {
        self.memory.objects.get(uri).map(Vec::as_slice)
    }
}

/// Puts the thread's memory back, also when the code panics: the next test of
/// this thread must not find what this one left.
struct Restore<'env> {
    env: &'env mut Env,
    before: Memory,
}

impl Restore<'_> {
    fn back(&mut self) {
        let before = std::mem::take(&mut self.before);
        self.env.memory = host::with_memory(|memory| std::mem::replace(memory, before));
    }
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.back();
        }
    }
}

fn params_text(params: &impl Serialize) -> String {
    match serde_json::to_string(params) {
        Ok(text) if text == "null" => "{}".to_owned(),
        Ok(text) => text,
        // The function then refuses its parameters, and says so.
        Err(error) => format!("no JSON: {error}"),
    }
}

/// What a handler may be called with.
pub trait IntoRequest {
    /// Makes the request.
    ///
    /// # Errors
    ///
    /// When the value has no JSON form.
    fn into_request(self) -> Result<Request>;
}

impl IntoRequest for Request {
    fn into_request(self) -> Result<Request> {
        Ok(self)
    }
}

impl<T: Serialize> IntoRequest for Json<T> {
    fn into_request(self) -> Result<Request> {
        Ok(Request::new(serde_json::to_vec(&self.0)?).with_header("content-type", "application/json"))
    }
}

impl IntoRequest for &str {
    fn into_request(self) -> Result<Request> {
        Ok(Request::new(self.as_bytes()))
    }
}

impl IntoRequest for String {
    fn into_request(self) -> Result<Request> {
        Ok(Request::new(self))
    }
}

impl IntoRequest for Vec<u8> {
    fn into_request(self) -> Result<Request> {
        Ok(Request::new(self))
    }
}

impl IntoRequest for () {
    fn into_request(self) -> Result<Request> {
        Ok(Request::new(Vec::new()).with_method("GET"))
    }
}
