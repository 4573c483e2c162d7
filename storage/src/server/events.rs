// SPDX-License-Identifier: Apache-2.0
//! What happens to objects, told to whoever listens in this process.
//!
//! The writer of the index tells it, in the order of its commits and before a
//! request is answered. It never waits: a listener that falls behind loses
//! events beyond a bound, and is told how many. What a crash takes from the
//! channel is lost as well; a listing finds those objects again.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use super::commit::{Change, Done};

/// Events that wait for the listener.
const WAITING_MAX: usize = 16_384;
/// The lowest bits of a sequencer tell commits of one millisecond apart.
const SEQUENCE_BITS: u32 = 16;

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// In S3's words, such as `ObjectCreated:Put`.
    pub name: &'static str,
    /// Without quotes; none of an object that was removed.
    pub etag: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Grows with every commit, over restarts too as far as the clock does.
    pub sequencer: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// The listener's end.
pub struct Events {
    inbox: mpsc::Receiver<Event>,
    lost: Arc<AtomicU64>,
}

impl Events {
    /// The next events, at least one and at most `max`; none at the end of the
    /// server. Cancellation safe: nothing is taken then.
    pub async fn next(&mut self, max: usize) -> Vec<Event> {
        let mut events = Vec::new();
        self.inbox.recv_many(&mut events, max).await;
        events
    }

    /// How many events were lost since this was asked last.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// The writer's end.
#[derive(Default)]
pub(super) struct Observers {
    listener: OnceLock<mpsc::Sender<Event>>,
    lost: Arc<AtomicU64>,
}

impl Observers {
    /// Begins to listen. None when somebody does already.
    pub(super) fn listen(&self) -> Option<Events> {
        let (sender, inbox) = mpsc::channel(WAITING_MAX);
        self.listener.set(sender).ok()?;
        Some(Events { inbox, lost: Arc::clone(&self.lost) })
    }

    /// Tells of a change that is on disk.
    pub(super) fn tell(&self, change: &Change, done: &Done, sequence: &mut u64, now_ms: u64) {
        let Some(listener) = self.listener.get() else { return };
        let mut tell = |bucket: &str, key: &str, name, object: Option<(&str, u64)>| {
            *sequence = (*sequence + 1).max(now_ms << SEQUENCE_BITS);
            let event = Event {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                name,
                etag: object.map(|(etag, _)| etag.to_owned()),
                size: object.map_or(0, |(_, size)| size),
                sequencer: *sequence,
                at_ms: now_ms,
            };
            if listener.try_send(event).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        };
        match (change, done) {
            (Change::Put(put), Done::Object(object)) => {
                tell(&put.bucket, &put.key, put.event, Some((&object.etag, object.size)));
            }
            (Change::Complete(complete), Done::Object(object)) => {
                let name = "ObjectCreated:CompleteMultipartUpload";
                tell(&complete.bucket, &complete.key, name, Some((&object.etag, object.size)));
            }
            (Change::Delete { bucket, victims }, Done::Deleted(results)) => {
                for (victim, _) in victims.iter().zip(results).filter(|(_, result)| result.is_ok()) {
                    tell(bucket, &victim.key, "ObjectRemoved:Delete", None);
                }
            }
            _ => {}
        }
    }
}
