// SPDX-License-Identifier: Apache-2.0
//! Whether the servers still have the data that the backbone was opened on.
//!
//! A stream keeps the time at which it was made, whichever server leads it. Another time, or no stream, means that
//! what it had was lost: revisions begin anew, and nothing that was read before says anything about what is there now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::{Core, streams};

/// How long the stream must have been missing: servers that start again find their data by then.
const MISSING_FOR: Duration = Duration::from_secs(3);
/// Between two looks, for as long as none of them tells.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks where nothing gives cause for one: streams may be deleted under a connection that stands.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Made at this time, in nanoseconds since 1970.
    Made(i128),
    Nothing,
}

impl Core {
    /// Looks for every stream; `None` where no server tells of one.
    async fn look(&self) -> Option<Vec<Found>> {
        let mut all = Vec::new();
        for name in self.names.streams() {
            let found = match self.jetstream.get_stream(name).await {
                Ok(stream) => Found::Made(stream.cached_info().created.unix_timestamp_nanos()),
                Err(error) if streams::is_missing(&error) => Found::Nothing,
                Err(_) => return None,
            };
            all.push(found);
        }
        Some(all)
    }

    /// After each time that the connection was lost, and now and then, looks whether the streams are those that they
    /// were at first.
    pub(super) async fn recognise(self: Arc<Self>) {
        let mut gaps = self.gaps.clone();
        let looking = async {
            let known = loop {
                match self.look().await {
                    Some(found) => break found,
                    None => sleep(LOOK_EVERY).await,
                }
            };
            loop {
                // Whoever counts the gaps has ended with the connection.
                if let Ok(Err(_)) = timeout(LOOK_ANYWAY, gaps.changed()).await {
                    return;
                }
                if self.are_others(&known).await {
                    tracing::warn!("NATS has lost its data: streams are missing or were made anew");
                    self.lost.cancel();
                    return;
                }
            }
        };
        self.closed.run_until_cancelled(looking).await;
    }

    async fn are_others(&self, known: &[Found]) -> bool {
        let mut missing = None;
        loop {
            match self.look().await {
                Some(found) if found == known => return false,
                Some(found) if found.contains(&Found::Nothing) => {
                    if missing.get_or_insert_with(Instant::now).elapsed() >= MISSING_FOR {
                        return true;
                    }
                }
                Some(_) => return true,
                None => missing = None,
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
