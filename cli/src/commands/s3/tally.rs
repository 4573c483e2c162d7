// SPDX-License-Identifier: Apache-2.0
//! What comes of copying many files or objects.
//!
//! One that fails is told at once and does not stop the others, unless what it met would
//! fail them as well. At the end the exit code is that of the worst.

use std::fmt::Display;

use fanfold_protocol::ErrorKind;
use futures::{StreamExt, stream};
use indicatif::ProgressBar;

use crate::{
    error::{Error, Exit, Result},
    output,
};

/// Files or objects on their way at once.
const AT_ONCE: usize = 4;

/// How many were copied, and how many were not.
pub struct Tally<'a> {
    bar: &'a ProgressBar,
    copied: u64,
    bytes: u64,
    failed: u64,
    worst: Option<Exit>,
}

impl<'a> Tally<'a> {
    /// Of nothing yet, beside a bar that shows how far it is.
    pub fn new(bar: &'a ProgressBar) -> Self {
        Self { bar, copied: 0, bytes: 0, failed: 0, worst: None }
    }

    /// Tells of one that was not copied.
    pub fn failed(&mut self, what: &str, error: &Error) {
        self.bar.suspend(|| output::note(output::harmless(&format!("{what}: {error}"))));
        self.failed += 1;
        self.worst = self.worst.max(Some(error.exit()));
    }

    /// Runs copies, a few at once. Each comes back with its name and the bytes that it copied.
    ///
    /// # Errors
    /// The store cannot be reached, or the bucket is not there.
    pub async fn run<F>(&mut self, copies: impl IntoIterator<Item = F>) -> Result<()>
    where
        F: Future<Output = (String, Result<u64>)>,
    {
        let mut copies = stream::iter(copies).buffer_unordered(AT_ONCE);
        while let Some((what, copied)) = copies.next().await {
            match copied {
                Ok(bytes) => {
                    self.copied += 1;
                    self.bytes += bytes;
                }
                Err(error) if stops_all(&error) => {
                    self.bar.finish_and_clear();
                    return Err(error.help(format!("{} were copied before", output::count(self.copied))));
                }
                Err(error) => self.failed(&what, &error),
            }
        }
        Ok(())
    }

    /// Says what was copied where.
    ///
    /// # Errors
    /// Some were not.
    pub fn end(self, things: &str, to: impl Display) -> Result<()> {
        self.bar.finish_and_clear();
        let (copied, bytes) = (output::count(self.copied), output::bytes(self.bytes));
        output::note(output::harmless(&format!("{copied} {things} -> {to} ({bytes})")));
        let Some(worst) = self.worst else { return Ok(()) };
        let (all, failed) = (output::count(self.copied + self.failed), output::count(self.failed));
        let found = format!(
            "expected to copy all of {all} {things}, found that {failed} failed and {copied} did not"
        );
        Err(Error::of(worst, found).help("each that failed is named above with its reason"))
    }
}

/// What would meet every other copy as well.
fn stops_all(error: &Error) -> bool {
    [ErrorKind::StoreUnavailable, ErrorKind::BucketNotFound]
        .iter()
        .any(|kind| error.code() == Some(kind.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(outcomes: Vec<Result<u64>>, exit: Option<Exit>, said: &str) {
        let bar = ProgressBar::hidden();
        let mut tally = Tally::new(&bar);
        let copies = outcomes.into_iter().map(|outcome| std::future::ready(("x".to_owned(), outcome)));
        let ran = tally.run(copies).await;
        let ended = match ran {
            Ok(()) => tally.end("files", "s3://bank/"),
            stopped => stopped,
        };
        let text = ended.as_ref().err().map(Error::to_string).unwrap_or_default();
        assert_eq!(ended.err().map(|error| error.exit()), exit, "{text}");
        assert!(text.contains(said), "{text}");
    }

    #[tokio::test]
    async fn what_fails_stops_the_others_only_where_they_would_fail() {
        check(vec![Ok(1), Ok(2)], None, "").await;
        let denied = || Error::service("no").with_code("store-denied");
        check(
            vec![Err(Error::failed("bad")), Ok(1), Err(denied()), Ok(2)],
            Some(Exit::Service),
            "2 failed and 2",
        )
        .await;
        check(
            vec![Err(Error::failed("bad")), Ok(1)],
            Some(Exit::Failed),
            "all of 2 files, found that 1 failed",
        )
        .await;
        let gone = Error::service("gone").with_code("store-unavailable");
        check(vec![Ok(1), Err(gone), Ok(2)], Some(Exit::Service), "gone").await;
    }
}
