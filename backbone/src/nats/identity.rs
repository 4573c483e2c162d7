// SPDX-License-Identifier: Apache-2.0
//! Whether the servers still have the data that the backbone was opened on.
//!
//! A stream keeps the time at which it was made, whichever server leads it. Another time, or no stream, means that
//! all was lost: revisions begin anew, and nothing that was read before says anything about what is there now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Core, streams};

/// How long the stream must have been missing: servers that start again find their data by then.
const MISSING_FOR: Duration = Duration::from_secs(3);
/// Between two looks, for as long as none of them tells.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Made at this time, in nanoseconds since 1970.
    Made(i128),
    Nothing,
}

impl Core {
    /// Looks for the stream of keys; `None` where no server tells.
    async fn look(&self) -> Option<Found> {
        match self.jetstream.get_stream(self.names.keys_stream()).await {
            Ok(stream) => Some(Found::Made(stream.cached_info().created.unix_timestamp_nanos())),
            Err(error) => streams::is_missing(&error).then_some(Found::Nothing),
        }
    }

    /// After each time that the connection was lost, looks whether the stream is the one that it was at first.
    pub(super) async fn recognise(self: Arc<Self>) {
        let mut gaps = self.gaps.clone();
        let looking = async {
            let known = loop {
                match self.look().await {
                    Some(found) => break found,
                    None => sleep(LOOK_EVERY).await,
                }
            };
            while gaps.changed().await.is_ok() {
                if self.is_another(known).await {
                    tracing::warn!("NATS has lost its data: streams are missing or were made anew");
                    self.lost.cancel();
                    return;
                }
            }
        };
        self.closed.run_until_cancelled(looking).await;
    }

    async fn is_another(&self, known: Found) -> bool {
        let mut missing = None;
        loop {
            match self.look().await {
                Some(Found::Nothing) => {
                    if missing.get_or_insert_with(Instant::now).elapsed() >= MISSING_FOR {
                        return true;
                    }
                }
                Some(found) => return found != known,
                None => missing = None,
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
