// SPDX-License-Identifier: Apache-2.0
//! Facts about the running invocation, and what it may reach.
//!
//! It owns the author's view of the platform: identity, time left, log,
//! progress, variables, objects and tables. In wasm each method is one call to
//! the host; natively they answer from the memory that [`crate::testing`] set
//! up. Invariant: a `Context` holds nothing, so making one costs nothing.

use std::fmt::{self, Display};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::objects::Objects;
#[cfg(feature = "tables")]
use crate::table::Tables;
use crate::{Params, Result, host};

/// The running invocation. Take `&Context` as an argument of any function.
///
/// ```
/// use fanfold_sdk::prelude::*;
///
/// #[fanfold::handler]
/// fn whoami(context: &Context) -> String {
///     context.info("asked who I am");
///     format!("attempt {} of {}", context.attempt(), context.invocation_id())
/// }
/// # fn main() {}
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Context {
    // Only the SDK makes one.
    _private: (),
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step, for a hard case.
    Trace,
    /// What a developer wants to see.
    Debug,
    /// What an operator wants to see.
    Info,
    /// Something is off, and the function went on.
    Warn,
    /// Something failed.
    Error,
}

/// Who runs: the answer of the host, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// A UUID, the same as in `X-Fanfold-Invocation-Id`.
    pub id: String,
    /// The function's name.
    pub function: String,
    /// The function's version, from 1.
    pub version: u32,
    /// The attempt at this task, from 1.
    pub attempt: u32,
}

impl Context {
    /// The context of the running invocation.
    pub(crate) fn current() -> Self {
        Self::default()
    }

    /// All of the identity in one call to the host.
    pub fn invocation(&self) -> Invocation {
        host::invocation()
    }

    /// The invocation's UUID.
    pub fn invocation_id(&self) -> String {
        host::invocation().id
    }

    /// The attempt at this task, from 1.
    pub fn attempt(&self) -> u32 {
        host::invocation().attempt
    }

    /// The time left until the platform stops this invocation.
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(host::remaining_ms())
    }

    /// When the platform stops this invocation, in milliseconds since
    /// 1970-01-01T00:00:00Z.
    pub fn deadline_ms(&self) -> u64 {
        host::now_ms().saturating_add(host::remaining_ms())
    }

    /// Milliseconds since 1970-01-01T00:00:00Z, in steps of 10.
    pub fn now_ms(&self) -> u64 {
        host::now_ms()
    }

    /// `length` random bytes, fetched in pieces of at most 4,096.
    ///
    /// A fold must not use them: its answer would change when a task is retried.
    pub fn random(&self, length: usize) -> Vec<u8> {
        const PIECE_BYTES: usize = 4096;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let wanted = PIECE_BYTES.min(length - bytes.len());
            bytes.extend_from_slice(&host::random(wanted as u32));
        }
        bytes
    }

    /// The parameters of the call or the job, read into `T`.
    ///
    /// # Errors
    ///
    /// `invalid-params`, naming the member that does not fit.
    pub fn params<T: DeserializeOwned>(&self) -> Result<Params<T>> {
        Params::current()
    }

    /// A variable of the `[env]` table in `function.toml`.
    pub fn variable(&self, name: &str) -> Option<String> {
        host::variable(name)
    }

    /// Writes a line to the invocation's log. Lines over 8 KiB are cut.
    pub fn log(&self, level: Level, message: impl Display) {
        host::log(level, &message.to_string());
    }

    /// Logs at [`Level::Debug`].
    pub fn debug(&self, message: impl Display) {
        self.log(Level::Debug, message);
    }

    /// Logs at [`Level::Info`].
    pub fn info(&self, message: impl Display) {
        self.log(Level::Info, message);
    }

    /// Logs at [`Level::Warn`].
    pub fn warn(&self, message: impl Display) {
        self.log(Level::Warn, message);
    }

    /// Logs at [`Level::Error`].
    pub fn error(&self, message: impl Display) {
        self.log(Level::Error, message);
    }

    /// Says how far the invocation is, for whoever waits: `done` units, of
    /// `total` when that is known.
    pub fn progress(&self, done: u64, total: impl Into<Option<u64>>) {
        host::progress(done, total.into());
    }

    /// The objects in the buckets and prefixes that the deployment grants.
    pub fn objects(&self) -> Objects {
        Objects::granted()
    }

    /// The tables in the buckets and prefixes that the deployment grants.
    #[cfg(feature = "tables")]
    pub fn tables(&self) -> Tables {
        Tables::granted()
    }
}

/// What the log macros call.
#[doc(hidden)]
pub fn log_args(level: Level, arguments: fmt::Arguments<'_>) {
    match arguments.as_str() {
        Some(text) => host::log(level, text),
        None => host::log(level, &arguments.to_string()),
    }
}

/// Writes a line of a given [`Level`] to the invocation's log.
///
/// ```
/// use fanfold_sdk::prelude::*;
/// fanfold::log!(Level::Warn, "{} rows were skipped", 3);
/// fanfold::info!("done");
/// ```
#[macro_export]
macro_rules! log {
    ($level:expr, $($message:tt)+) => {
        $crate::__private::log_args($level, ::core::format_args!($($message)+))
    };
}

/// Writes a line of [`Level::Trace`] to the invocation's log.
#[macro_export]
macro_rules! trace {
    ($($message:tt)+) => { $crate::log!($crate::Level::Trace, $($message)+) };
}

/// Writes a line of [`Level::Debug`] to the invocation's log.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log!($crate::Level::Debug, $($message)+) };
}

/// Writes a line of [`Level::Info`] to the invocation's log.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log!($crate::Level::Info, $($message)+) };
}

/// Writes a line of [`Level::Warn`] to the invocation's log.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log!($crate::Level::Warn, $($message)+) };
}

/// Writes a line of [`Level::Error`] to the invocation's log.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log!($crate::Level::Error, $($message)+) };
}
