// SPDX-License-Identifier: Apache-2.0
//! Whether the servers still have the data that the backbone was opened on.
//!
//! A stream keeps the time at which it was made, whichever server leads it. Another time, or no stream, means that
//! what it had was lost: revisions begin anew, and nothing that was read before says anything about what is there now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{Core, streams};

/// How long a stream must have been missing: servers that start again find their data by then.
const MISSING_FOR: Duration = Duration::from_secs(3);
/// Between two looks, for as long as none of them tells.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks where nothing gives cause for one: streams may be deleted under a connection that stands.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);

impl Core {
    /// When every stream was made, `None` for one that is missing; `None` for all where no server tells of one.
    async fn look(&self) -> Option<Vec<Option<i128>>> {
        let mut all = Vec::new();
        for name in self.names.streams() {
            all.push(match self.jetstream.get_stream(name).await {
                Ok(stream) => Some(stream.cached_info().created.unix_timestamp_nanos()),
                Err(error) if streams::is_missing(&error) => None,
                Err(_) => return None,
            });
        }
        Some(all)
    }

    /// When every stream was made; `None` once one has been missing for so long that it is believed.
    async fn made(&self) -> Option<Vec<i128>> {
        let mut missing = None;
        loop {
            match self.look().await.map(|all| all.into_iter().collect::<Option<Vec<_>>>()) {
                Some(Some(made)) => return Some(made),
                Some(None) if missing.get_or_insert_with(Instant::now).elapsed() >= MISSING_FOR => {
                    return None;
                }
                Some(None) => {}
                None => missing = None,
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// After each time that the connection was lost, and now and then, looks whether the streams are those that they
    /// were at first, and what is kept in them for others is there.
    pub(super) async fn recognise(self: Arc<Self>) {
        let mut gaps = self.gaps.clone();
        let looking = async {
            let known = self.made().await;
            while known.is_some() {
                // Whoever counts the gaps has ended with the connection.
                if let Ok(Err(_)) = timeout(LOOK_ANYWAY, gaps.changed()).await {
                    return;
                }
                if self.made().await != known {
                    break;
                }
                self.mend_kept().await;
            }
            tracing::warn!("NATS has lost its data: streams are missing or were made anew");
            self.lost.cancel();
        };
        self.closed.run_until_cancelled(looking).await;
    }
}
