// SPDX-License-Identifier: Apache-2.0
//! The last invocations of this process, for whoever asks what became of one.
//!
//! Kept in memory: at most [`RECORDS_MAX`] of them and [`BYTES_MAX`] of bodies
//! and log lines, the oldest forgotten first, all of them with the process.
//! A record that must last belongs to a job or an asynchronous call.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use fanfold_protocol::{
    Problem,
    invocation::{LogLine, Progress, Usage},
    names::FunctionName,
    time::Timestamp,
};
use tokio::sync::broadcast;
use uuid::Uuid;

/// Records kept.
pub const RECORDS_MAX: usize = 2_048;
/// Bytes of bodies and log lines kept, all records together.
pub const BYTES_MAX: usize = 16 << 20;
/// A larger body is not kept.
pub const BODY_BYTES_MAX: usize = 256 << 10;
/// Records that a slow follower of a log may lag behind.
const FOLLOWED_MAX: usize = 256;
/// What a record takes beside its body and lines, about.
const RECORD_BYTES: usize = 512;

/// The body that an invocation returned.
#[derive(Clone, Debug)]
pub struct KeptBody {
    /// Its HTTP status.
    pub status: u16,
    /// Its type, as the guest said.
    pub content_type: Option<String>,
    /// Whole; `None` when it was too large to be kept.
    pub body: Option<Bytes>,
    /// How many bytes it had.
    pub bytes: u64,
}

/// How an invocation ended.
#[derive(Clone, Debug)]
pub struct Record {
    /// As in `X-Fanfold-Invocation-Id`.
    pub id: Uuid,
    /// Of an asynchronous call, of which this is no end; 0 for a synchronous one.
    pub attempt: u32,
    /// The function.
    pub function: FunctionName,
    /// The version that ran.
    pub version: u32,
    /// When it was taken in.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Microseconds that it waited for admission.
    pub queue_us: u64,
    /// What it returned, or why it did not.
    pub result: Result<KeptBody, Problem>,
    /// What the guest logged.
    pub logs: Vec<LogLine>,
    /// How far it said, the last time, that it was.
    pub progress: Option<Progress>,
    /// What it took; none where it was cut off, and with it whatever could have told.
    pub usage: Option<Usage>,
}

impl Record {
    fn bytes(&self) -> usize {
        let body = self.result.as_ref().ok().and_then(|kept| kept.body.as_ref()).map_or(0, Bytes::len);
        let lines: usize = self.logs.iter().map(|line| line.message.len() + size_of::<LogLine>()).sum();
        RECORD_BYTES + body + lines
    }
}

/// The records; clones share them.
#[derive(Clone)]
pub struct Records {
    ring: Arc<Mutex<Ring>>,
    news: broadcast::Sender<Arc<Record>>,
}

#[derive(Default)]
struct Ring {
    order: VecDeque<Uuid>,
    by_id: HashMap<Uuid, Arc<Record>>,
    bytes: usize,
}

impl Default for Records {
    fn default() -> Self {
        Self { ring: Arc::default(), news: broadcast::Sender::new(FOLLOWED_MAX) }
    }
}

impl Records {
    /// Keeps a record, and tells whoever follows.
    pub fn keep(&self, record: Record) {
        let record = Arc::new(record);
        self.ring().push(Arc::clone(&record));
        // Without followers there is nobody to tell.
        let _ = self.news.send(record);
    }

    /// The record of an invocation.
    pub fn get(&self, id: &Uuid) -> Option<Arc<Record>> {
        self.ring().by_id.get(id).cloned()
    }

    /// The kept records of a function, oldest first.
    pub fn of_function(&self, function: &FunctionName) -> Vec<Arc<Record>> {
        let ring = self.ring();
        let records = ring.order.iter().filter_map(|id| ring.by_id.get(id));
        records.filter(|record| record.function == *function).cloned().collect()
    }

    /// Records as they come in from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Record>> {
        self.news.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, record: Arc<Record>) {
        self.bytes += record.bytes();
        self.order.push_back(record.id);
        if let Some(earlier) = self.by_id.insert(record.id, record.clone()) {
            // Another attempt: it takes the place of the one before.
            self.bytes -= earlier.bytes();
            if let Some(at) = self.order.iter().position(|id| *id == record.id) {
                self.order.remove(at);
            }
        }
        while self.order.len() > RECORDS_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front().and_then(|id| self.by_id.remove(&id)) else { return };
            self.bytes -= oldest.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u128, body_bytes: usize) -> Record {
        let body = Some(Bytes::from(vec![0; body_bytes]));
        Record {
            id: Uuid::from_u128(n),
            attempt: 0,
            function: "f".parse().unwrap(),
            version: 1,
            started_at: Timestamp(0),
            ended_at: Timestamp(0),
            queue_us: 0,
            result: Ok(KeptBody { status: 200, content_type: None, body, bytes: body_bytes as u64 }),
            logs: Vec::new(),
            progress: None,
            usage: Some(Usage::default()),
        }
    }

    #[test]
    fn the_oldest_are_forgotten_first() {
        let records = Records::default();
        for n in 0..RECORDS_MAX as u128 + 3 {
            records.keep(record(n, 0));
        }
        assert!(records.get(&Uuid::from_u128(2)).is_none());
        assert!(records.get(&Uuid::from_u128(3)).is_some());
        assert_eq!(records.of_function(&"f".parse().unwrap()).len(), RECORDS_MAX);
    }

    #[test]
    fn an_attempt_takes_the_place_of_the_one_before() {
        let records = Records::default();
        records.keep(record(1, 10));
        records.keep(record(2, 20));
        records.keep(record(1, 30));
        let ring = records.ring();
        assert_eq!(ring.order, [Uuid::from_u128(2), Uuid::from_u128(1)]);
        assert_eq!(ring.bytes, ring.by_id.values().map(|record| record.bytes()).sum::<usize>());
    }

    #[test]
    fn bytes_are_bounded() {
        let records = Records::default();
        for n in 0..200 {
            records.keep(record(n, BODY_BYTES_MAX));
        }
        let ring = records.ring();
        assert!(ring.bytes <= BYTES_MAX && ring.order.len() > 50);
        assert_eq!(ring.bytes, ring.by_id.values().map(|record| record.bytes()).sum::<usize>());
    }
}
