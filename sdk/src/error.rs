// SPDX-License-Identifier: Apache-2.0
//! The one error that functions return.
//!
//! It owns the conversion of whatever went wrong in an author's code into the
//! three facts the platform passes on: a code, a message, and whether trying
//! again may help. It stands at the end of every export: nothing but this type
//! crosses to the host. Invariant: a code holds only lower-case letters, digits
//! and `-`, whatever it was made from.

use std::fmt;

/// What functions return: a value, or an [`Error`] the caller will see.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a function failed, as its caller will see it.
///
/// Any error of the standard kind turns into one with `?`, under the code
/// `function-failed`; give a code of your own where a caller acts on it.
///
/// ```
/// use fanfold_sdk::Error;
///
/// let refused = Error::new("unknown-region", "region must be north or south, found `west`");
/// assert_eq!(refused.code(), "unknown-region");
/// assert!(!refused.is_retryable());
///
/// let wrapped: Error = "x".parse::<u32>().unwrap_err().into();
/// assert_eq!(wrapped.code(), "function-failed");
/// ```
///
/// An `anyhow::Error`, a `Box<dyn Error>` and a text are no errors of that kind: make one of
/// them by [`Error::msg`], as in `.map_err(|error| Error::msg(format!("{error:#}")))?`. For
/// an error type of your own that has codes, write `impl From<YourError> for Error`, and leave
/// `std::error::Error` out.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    code: String,
    message: String,
    retryable: bool,
}

/// The longest code kept, in bytes.
const CODE_BYTES_MAX: usize = 64;

impl Error {
    /// An error that trying again does not mend. `code` is a short stable word;
    /// what does not belong in one becomes `-`. `message` says what was
    /// expected, what was found and what to do.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: clean(code.into()), message: message.into(), retryable: false }
    }

    /// An error of code `function-failed`, for what no caller acts upon.
    pub fn msg(message: impl Into<String>) -> Self {
        Self::new("function-failed", message)
    }

    /// The same error, marked as one that may not happen again.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// The same error with words before its message: `context: message`.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The short stable word.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What was expected, what was found, what to do.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same call may succeed when tried again.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// The code, the message and whether it is retryable, for the host.
    #[cfg(target_family = "wasm")]
    pub(crate) fn into_parts(self) -> (String, String, bool) {
        (self.code, self.message, self.retryable)
    }
}

fn clean(code: String) -> String {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !code.is_empty() && code.len() <= CODE_BYTES_MAX && code.bytes().all(fits) {
        return code;
    }
    let cleaned: String = code
        .chars()
        .take(CODE_BYTES_MAX)
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    if cleaned.is_empty() { "function-failed".to_owned() } else { cleaned }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if self.retryable { f.write_str(" (retryable)") } else { Ok(()) }
    }
}

// `Error` is deliberately no `std::error::Error` itself: that is what makes
// room for this conversion, and with it for `?` on any error.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Many errors already repeat their cause in their own text.
            if !message.contains(&cause_text) {
                message.push_str(": ");
                message.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self::new("function-failed", message)
    }
}

/// Lets a method of an aggregate return its value with or without `Result`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "expected `{T}` or a `Result` of it, found `{Self}`",
    label = "not what the method returns",
    note = "`new` returns the state, `add` and `merge` return nothing, `finish` returns `type Output`; each with or without `Result`"
)]
pub trait IntoResult<T> {
    fn into_result(self) -> Result<T>;
}

impl<T> IntoResult<T> for T {
    fn into_result(self) -> Result<T> {
        Ok(self)
    }
}

impl<T, E: Into<Error>> IntoResult<T> for std::result::Result<T, E> {
    fn into_result(self) -> Result<T> {
        self.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_cleaned() {
        let check = |given: &str, kept: &str| assert_eq!(Error::new(given, "").code(), kept);
        check("no-such-region", "no-such-region");
        check("No Such_Region!", "no-such-region-");
        check("", "function-failed");
        check(&"x".repeat(200), &"x".repeat(CODE_BYTES_MAX));
        check("größe", "gr--e");
    }

    #[test]
    fn causes_are_told_once() {
        let error: Error = std::io::Error::other("disk is full").into();
        assert_eq!(error.message(), "disk is full");
        assert_eq!(format!("{:?}", error.retryable()), "function-failed: disk is full (retryable)");
    }
}
