// SPDX-License-Identifier: Apache-2.0
//! Whether the store answers this worker.
//!
//! A worker that is cut off from the store would take lease after lease and hold
//! each through all the retries of a request. So it looks at the store all the
//! time, pulls while the store answers, and gives back what only waits when the store
//! has been silent for [`SILENT_WAITING`], and what runs after [`SILENT_MAX`]. Invariant:
//! one answer that is late makes nobody give back anything.

use std::time::Duration;

use fanfold_protocol::ErrorKind;
use fanfold_storage::Store;
use tokio::{sync::watch, time::Instant};

/// Between two looks while the store answers, and while it does not.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(1));
/// A store that takes longer does not answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the store is silent before leases that run are given back: longer than a
/// store takes to be started again, so that work is not thrown away for that.
const SILENT_MAX: Duration = Duration::from_secs(20);
/// And before those that only wait are: longer than one answer that is late.
const SILENT_WAITING: Duration = Duration::from_secs(6);

/// What the last look at the store found.
pub(crate) struct Reach {
    /// Since when it has been silent.
    silent: watch::Sender<Option<Instant>>,
    silent_max: Duration,
}

impl Reach {
    /// A store that has not been looked at is taken to answer.
    pub(crate) fn new() -> Self {
        Self { silent: watch::Sender::new(None), silent_max: SILENT_MAX }
    }

    /// Whether the store answered when it was last asked.
    pub(crate) fn answers(&self) -> bool {
        self.silent.borrow().is_none()
    }

    /// Waits while the store is silent.
    pub(crate) async fn answering(&self) {
        // The sender is ours, so this does not fail.
        let _ = self.silent.subscribe().wait_for(Option::is_none).await;
    }

    /// Waits while the store answers.
    pub(crate) async fn silent(&self) {
        let _ = self.silent.subscribe().wait_for(Option::is_some).await;
    }

    /// Waits until the store has been silent for so long that others should have
    /// the work.
    pub(crate) async fn lost(&self) {
        self.silent_for(self.silent_max).await;
    }

    /// Waits until it has been silent for so long that others should have what only
    /// waits here.
    pub(crate) async fn silent_to_who_waits(&self) {
        self.silent_for(SILENT_WAITING.min(self.silent_max)).await;
    }

    async fn silent_for(&self, span: Duration) {
        loop {
            self.silent().await;
            let Some(since) = *self.silent.borrow() else { continue };
            tokio::select! {
                () = tokio::time::sleep_until(since + span) => return,
                () = self.answering() => {}
            }
        }
    }

    /// Looks at the store for ever.
    pub(crate) async fn look(&self, store: &Store, bucket: &str) {
        loop {
            let asked = Instant::now();
            let found = missing_answer(store, bucket).await;
            self.note(found.as_deref(), asked);
            tokio::time::sleep(if found.is_none() { LOOK_EVERY.0 } else { LOOK_EVERY.1 }).await;
        }
    }

    /// Whether the store gives this worker no answer, by the last look or by one more: for whoever
    /// has just failed.
    pub(crate) async fn is_without(&self, store: &Store, bucket: &str) -> bool {
        !self.answers() || missing_answer(store, bucket).await.is_some()
    }

    fn note(&self, wrong: Option<&str>, asked: Instant) {
        let changed = self.silent.send_if_modified(|silent| {
            let changed = silent.is_some() != wrong.is_some();
            if changed {
                *silent = wrong.map(|_| asked);
            }
            changed
        });
        match wrong {
            Some(found) if changed => tracing::warn!(found, "the store does not answer; no work is taken"),
            None if changed => tracing::info!("the store answers again; work is taken"),
            _ => {}
        }
    }
}

/// Looks at the store; says what there was instead of an answer.
async fn missing_answer(store: &Store, bucket: &str) -> Option<String> {
    match tokio::time::timeout(LOOK_TIMEOUT, store.bucket_exists(bucket)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => (!is_an_answer(error.kind())).then(|| error.to_string()),
        Err(_) => Some(format!("no answer within {} s", LOOK_TIMEOUT.as_secs())),
    }
}

/// Whether the store itself said so, and not for want of the store.
fn is_an_answer(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::StoreUnavailable | ErrorKind::StoreTimeout)
}

#[cfg(test)]
mod tests {
    use fanfold_storage::{Credentials, Server, ServerConfig, StoreConfig};

    use super::*;

    #[tokio::test]
    async fn one_late_answer_stops_pulls_and_only_a_silent_store_gives_back() {
        let silent_max = Duration::from_millis(200);
        let reach = Reach { silent_max, ..Reach::new() };
        reach.answering().await;
        reach.note(Some("late"), Instant::now());
        reach.silent().await;
        assert!(!reach.answers());
        reach.note(None, Instant::now());
        reach.answering().await;
        assert!(tokio::time::timeout(2 * silent_max, reach.lost()).await.is_err());
        let since = Instant::now();
        reach.note(Some("gone"), since);
        // What is still silent has been so since the first time.
        reach.note(Some("gone"), since + 10 * silent_max);
        tokio::time::timeout(9 * silent_max, reach.lost()).await.expect("silence that counts");
        assert!(since.elapsed() >= silent_max);
    }

    #[tokio::test]
    async fn who_has_failed_looks_at_the_store_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = || Credentials::new("reach", "reach-secret");
        let config = ServerConfig { root: folder.path().to_owned(), credentials: credentials() };
        let server = Server::open(config).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store = |endpoint: String| {
            let config = StoreConfig { attempts_max: 1, ..StoreConfig::at(endpoint, credentials()) };
            Store::connect(config).unwrap()
        };
        let there = store(format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move { server.serve(listener, Default::default()).await });
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = store(format!("http://{}", free.local_addr().unwrap()));
        drop(free);

        let reach = Reach::new();
        // That there is no such bucket is an answer.
        assert!(!reach.is_without(&there, "bank").await);
        assert!(reach.is_without(&gone, "bank").await);
        reach.note(Some("gone"), Instant::now());
        assert!(reach.is_without(&there, "bank").await);
    }
}
