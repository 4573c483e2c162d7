// SPDX-License-Identifier: Apache-2.0
//! What a start waits for: servers that are there and cannot serve yet.
//!
//! A cluster that comes up, perhaps without anything that it had, tells nobody of its streams until its servers have
//! chosen a leader and know each other. Invariant: what no time mends ends a start at once.

use std::error::Error as _;
use std::fmt::Display;
use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, RequestError,
    RequestErrorKind,
};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::error::Error;

/// How long it waits for more servers: that there are too few is a mistake as a rule.
const SERVERS: Duration = Duration::from_secs(5);
/// Before what could not be served is asked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// What a cluster says while nobody leads it, or while those that have a stream do not run yet.
const LEADERLESS: [ErrorCode; 3] =
    [ErrorCode::CLUSTER_NOT_AVAILABLE, ErrorCode::CLUSTER_NOT_LEADER, ErrorCode::STREAM_OFFLINE];

/// What servers that come up may lack for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// No answer, or no leader.
    Leader,
    /// Fewer servers than there are to be copies.
    Servers,
}

/// How long a start still waits, over all that it asks for, much of it at once.
pub(super) struct Patience {
    begun: Instant,
    longest: Duration,
    /// Since when there were too few servers, which are counted only once there is a leader.
    too_few_since: OnceLock<Instant>,
    /// What the server said that we may not do.
    refusals: watch::Receiver<Option<String>>,
    has_warned: AtomicBool,
}

impl Patience {
    /// `refusals` tells what the server refused last: no answer will come to that.
    pub(super) fn new(longest: Duration, refusals: watch::Receiver<Option<String>>) -> Self {
        let (begun, too_few_since, has_warned) = (Instant::now(), OnceLock::new(), AtomicBool::new(false));
        Self { begun, longest, too_few_since, refusals, has_warned }
    }

    /// Tries again for as long as what is lacking may still come.
    pub(super) async fn insist<T, E: Display, F: Future<Output = Result<T, E>>>(
        &self,
        attempt: impl Fn() -> F,
        lacks: impl Fn(&E) -> Option<Lack>,
    ) -> Result<T, E> {
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let is_over = match lacks(&error) {
                Some(Lack::Leader) => self.begun.elapsed() + AGAIN >= self.longest,
                Some(Lack::Servers) => {
                    let since = self.too_few_since.get_or_init(Instant::now);
                    since.elapsed() + AGAIN >= self.longest.min(SERVERS)
                }
                None => true,
            };
            if is_over || self.refusal().is_some() {
                return Err(error);
            }
            self.warn(&error);
            sleep(AGAIN).await;
        }
    }

    /// What the server said that we may not do, if anything.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusals.borrow().clone()
    }

    fn warn(&self, found: &impl Display) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "NATS was reached and cannot serve yet ({found}); the start waits up to {} s for its servers to have \
                 a leader and what a gateway makes",
                self.longest.as_secs()
            );
        }
    }
}

/// What the servers lacked when they were asked for a stream.
pub(super) fn lack_of_get(error: &GetStreamError) -> Option<Lack> {
    match error.kind() {
        GetStreamErrorKind::JetStream(told) => lack_of_leader(told.error_code()),
        GetStreamErrorKind::Request => {
            (request_kind(error) == Some(RequestErrorKind::TimedOut)).then_some(Lack::Leader)
        }
        _ => None,
    }
}

/// Whether there is no JetStream to answer about a stream.
pub(super) fn is_without_jetstream(error: &GetStreamError) -> bool {
    request_kind(error) == Some(RequestErrorKind::NoResponders)
}

fn request_kind(error: &GetStreamError) -> Option<RequestErrorKind> {
    Some(error.source()?.downcast_ref::<RequestError>()?.kind())
}

/// What they lacked when they were to make one.
pub(super) fn lack_of_create(error: &CreateStreamError) -> Option<Lack> {
    match error.kind() {
        CreateStreamErrorKind::TimedOut => Some(Lack::Leader),
        // Of room they say the same and name it.
        CreateStreamErrorKind::JetStream(told) if told.error_code() == ErrorCode::CLUSTER_NO_PEERS => {
            (!told.to_string().contains("insufficient")).then_some(Lack::Servers)
        }
        CreateStreamErrorKind::JetStream(told) => lack_of_leader(told.error_code()),
        _ => None,
    }
}

fn lack_of_leader(code: ErrorCode) -> Option<Lack> {
    LEADERLESS.contains(&code).then_some(Lack::Leader)
}

/// What they lacked for an operation of ours.
pub(super) fn lack_of(error: &Error) -> Option<Lack> {
    matches!(error, Error::Unavailable { .. }).then_some(Lack::Leader)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn unavailable() -> Error {
        Error::Unavailable { detail: "no leader".to_owned() }
    }

    async fn tries(longest: Duration, refusal: Option<&str>, lack: Option<Lack>) -> u32 {
        let (_refuse, refusals) = watch::channel(refusal.map(str::to_owned));
        let (patience, count) = (Patience::new(longest, refusals), AtomicU32::new(0));
        let attempt = || {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Err::<(), Error>(unavailable()))
        };
        assert_eq!(patience.insist(attempt, |_| lack).await, Err(unavailable()));
        count.into_inner()
    }

    #[tokio::test]
    async fn only_what_may_come_is_waited_for() {
        let longest = Duration::from_secs(2);
        for lack in [Lack::Leader, Lack::Servers] {
            assert!(tries(longest, None, Some(lack)).await > 1, "{lack:?}");
        }
        assert_eq!(tries(longest, None, None).await, 1);
        assert_eq!(tries(Duration::ZERO, None, Some(Lack::Leader)).await, 1);
        assert_eq!(tries(longest, Some("Permissions Violation"), Some(Lack::Leader)).await, 1);
    }
}
