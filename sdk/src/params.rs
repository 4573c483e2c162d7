// SPDX-License-Identifier: Apache-2.0
//! Parameters of a call or a job, as a type of the author's.
//!
//! It owns the reading of the JSON parameters the caller gave, before the
//! function's own code runs. Invariant: what does not fit is refused with
//! `invalid-params` and the path of the member at fault; nothing is guessed.

use std::ops::Deref;

use serde::de::DeserializeOwned;

use crate::{Error, Result, host, json};

/// The parameters of the call or the job, read into `T`.
///
/// It dereferences to `T`, so members are read directly. With
/// `#[serde(deny_unknown_fields)]` above `T` a member that `T` does not have, such as one whose
/// name is misspelt, is refused; without it such members are passed over.
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Weights { threshold: f64 }
///
/// let params = Params::<Weights>::from_json(r#"{"threshold": 0.2}"#)?;
/// assert_eq!(params.threshold, 0.2);
///
/// let error = Params::<Weights>::from_json(r#"{"threshold": "high"}"#).err();
/// assert_eq!(error.map(|e| e.code().to_owned()).as_deref(), Some("invalid-params"));
/// assert!(Params::<Weights>::from_json(r#"{"threshold": 0.2, "treshold": 0.3}"#).is_err());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Params<T>(pub T);

impl<T> Params<T> {
    /// The parameters themselves.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T: DeserializeOwned> Params<T> {
    /// Reads parameters from JSON text; `{}` stands for none.
    ///
    /// # Errors
    ///
    /// `invalid-params`, naming the member that does not fit.
    pub fn from_json(text: &str) -> Result<Self> {
        json::read(text.as_bytes()).map(Self).map_err(|unfit| {
            Error::new("invalid-params", format!("params{unfit}; mend the params of the call or the job"))
        })
    }

    /// Reads the parameters of the running invocation.
    pub(crate) fn current() -> Result<Self> {
        Self::from_json(&host::params())
    }
}

impl<T> Deref for Params<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Outer {
        #[allow(dead_code)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Inner {
        #[allow(dead_code)]
        limit: u8,
    }

    #[test]
    fn the_path_is_named() {
        let check = |text: &str, expected: &str| {
            let error = Params::<Outer>::from_json(text).unwrap_err();
            assert_eq!(error.code(), "invalid-params");
            assert!(error.message().contains(expected), "{}", error.message());
        };
        check(
            r#"{"inner": [{"limit": 1}, {"limit": 300}]}"#,
            "params.inner[1].limit: invalid value: integer `300`",
        );
        check("{}", "params: missing field `inner`");
        check("[", "params: ");
    }
}
