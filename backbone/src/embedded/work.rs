// SPDX-License-Identifier: Apache-2.0
//! The work queue inside a transaction: enqueue, lease, settle, dead letters, and loading what the file holds.
//!
//! Called by the writer. Changes file and memory together; when the transaction fails the writer loads the
//! memory anew. Invariant: an attempt is counted in the file before its delivery is handed out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable};

use crate::embedded::op::{Leased, Pull, Verb};
use crate::embedded::queue::{Place, Queue};
use crate::embedded::store::{DEAD, DbResult, MESSAGES, SCHEDULE, Tables, millis};
use crate::queue::{DeadLetter, Enqueued, Message, Settled};

/// Bytes of payload after which a pull is served with what it has.
const GRANT_BYTES: usize = 16 << 20;

/// All queues by name.
pub(crate) type Queues = BTreeMap<String, Queue>;

/// What the work half needs of the current transaction.
pub(crate) struct Work<'a, 't> {
    pub(crate) tables: &'a mut Tables<'t>,
    pub(crate) now_ms: u64,
    pub(crate) sequence: &'a mut u64,
    pub(crate) queues: &'a mut Queues,
    pub(crate) dedupe_window: Duration,
}

impl Work<'_, '_> {
    pub(crate) fn enqueue(&mut self, name: &str, messages: &[Message]) -> DbResult<Enqueued> {
        let queue = self.queues.entry(name.to_owned()).or_default();
        let forget = self.now_ms.saturating_add(millis(self.dedupe_window));
        let mut outcome = Enqueued::default();
        for message in messages {
            if !queue.note(&message.id, self.now_ms, forget) {
                outcome.duplicates += 1;
                continue;
            }
            *self.sequence += 1;
            let key = (name, *self.sequence);
            let delay = millis(message.delay.unwrap_or_default());
            let due = if delay == 0 { 0 } else { self.now_ms.saturating_add(delay) };
            self.tables.messages.insert(key, &message.payload[..])?;
            self.tables.schedule.insert(key, (0, due, message.id.as_str()))?;
            queue.place(key.1, 0, if due == 0 { Place::Ready } else { Place::Delayed(due) });
            outcome.accepted += 1;
        }
        Ok(outcome)
    }

    pub(crate) fn settle(&mut self, name: &str, sequence: u64, token: u64, verb: &Verb) -> DbResult<Settled> {
        let Some(queue) = self.queues.get_mut(name) else { return Ok(Settled::Stale) };
        if let Verb::Ack = verb {
            if queue.remove(sequence).is_none() {
                return Ok(Settled::Stale);
            }
            self.tables.schedule.remove((name, sequence))?;
            self.tables.messages.remove((name, sequence))?;
            return Ok(Settled::Done);
        }
        let Some(item) = queue.leased(sequence, token) else { return Ok(Settled::Stale) };
        match verb {
            Verb::Nak(delay) if delay.is_zero() => queue.place(sequence, item.attempt, Place::Ready),
            Verb::Nak(delay) => {
                let due = self.now_ms.saturating_add(millis(*delay));
                queue.place(sequence, item.attempt, Place::Delayed(due));
                self.reschedule(name, sequence, item.attempt, due)?;
            }
            Verb::Dead(reason) => self.bury(name, sequence, item.attempt, reason)?,
            Verb::Ack | Verb::Extend(_) => {}
        }
        Ok(Settled::Done)
    }

    /// Takes back what was leased and never seen; it does not count as an attempt.
    pub(crate) fn release(&mut self, name: &str, leases: &[(u64, u64)]) -> DbResult<()> {
        for (sequence, token) in leases {
            let Some(queue) = self.queues.get_mut(name) else { return Ok(()) };
            if let Some(item) = queue.leased(*sequence, *token) {
                let attempt = item.attempt.saturating_sub(1);
                queue.place(*sequence, attempt, Place::Ready);
                self.reschedule(name, *sequence, attempt, 0)?;
            }
        }
        Ok(())
    }

    /// Leases ready messages to whoever waits.
    pub(crate) fn grant(&mut self, pull: &Pull, now: Instant, tokens: &mut u64) -> DbResult<Vec<Leased>> {
        let (name, mut leased, mut bytes) = (pull.queue.as_str(), Vec::new(), 0);
        while leased.len() < pull.max && bytes < GRANT_BYTES {
            let Some(queue) = self.queues.get_mut(name) else { break };
            let Some(sequence) = queue.first_ready() else { break };
            let attempt = queue.item(sequence).map_or(0, |item| item.attempt).saturating_add(1);
            *tokens += 1;
            queue.place(sequence, attempt, Place::Leased { token: *tokens, until: now + pull.lease });
            let id = self.reschedule(name, sequence, attempt, 0)?;
            let payload = self.tables.messages.get((name, sequence))?;
            let payload = payload.map(|row| Bytes::copy_from_slice(row.value()));
            let (Some(id), Some(payload)) = (id, payload) else {
                tracing::error!(queue = name, sequence, "a message is not whole and becomes a dead letter");
                self.bury(name, sequence, attempt, "its payload is missing from the store")?;
                continue;
            };
            bytes += payload.len();
            leased.push(Leased { sequence, token: *tokens, id, attempt, payload });
        }
        Ok(leased)
    }

    pub(crate) fn replay(&mut self, name: &str, sequences: &[u64]) -> DbResult<usize> {
        let mut count = 0;
        for sequence in sequences {
            let row = self.tables.dead.remove((name, *sequence))?.map(|row| row.value().1.to_owned());
            if let Some(id) = row {
                self.tables.schedule.insert((name, *sequence), (0, 0, id.as_str()))?;
                let queue = self.queues.entry(name.to_owned()).or_default();
                queue.dead = queue.dead.saturating_sub(1);
                queue.place(*sequence, 0, Place::Ready);
                count += 1;
            }
        }
        Ok(count)
    }

    pub(crate) fn discard(&mut self, name: &str, sequences: &[u64]) -> DbResult<usize> {
        let mut count = 0;
        for sequence in sequences {
            if self.tables.dead.remove((name, *sequence))?.is_some() {
                self.tables.messages.remove((name, *sequence))?;
                if let Some(queue) = self.queues.get_mut(name) {
                    queue.dead = queue.dead.saturating_sub(1);
                }
                count += 1;
            }
        }
        Ok(count)
    }

    fn bury(&mut self, name: &str, sequence: u64, attempt: u32, reason: &str) -> DbResult<()> {
        let id = self.tables.schedule.remove((name, sequence))?.map(|row| row.value().2.to_owned());
        self.tables.dead.insert((name, sequence), (attempt, id.unwrap_or_default().as_str(), reason))?;
        if let Some(queue) = self.queues.get_mut(name) {
            queue.remove(sequence);
            queue.dead += 1;
        }
        Ok(())
    }

    /// Notes attempts and due time of a queued message; answers its id, or none where it is not queued.
    fn reschedule(&mut self, name: &str, sequence: u64, attempt: u32, due: u64) -> DbResult<Option<String>> {
        let id = self.tables.schedule.get((name, sequence))?.map(|row| row.value().2.to_owned());
        if let Some(id) = &id {
            self.tables.schedule.insert((name, sequence), (attempt, due, id.as_str()))?;
        }
        Ok(id)
    }
}

/// Reads every queue from the file. What was leased when the last life ended is ready.
pub(crate) fn load(txn: &ReadTransaction, now_ms: u64, dedupe_window: Duration) -> DbResult<Queues> {
    let mut queues = Queues::new();
    let forget = now_ms.saturating_add(millis(dedupe_window));
    for row in txn.open_table(SCHEDULE)?.iter()? {
        let (key, value) = row?;
        let ((name, sequence), (attempt, due, id)) = (key.value(), value.value());
        if !queues.contains_key(name) {
            queues.insert(name.to_owned(), Queue::default());
        }
        if let Some(queue) = queues.get_mut(name) {
            queue.place(sequence, attempt, if due > now_ms { Place::Delayed(due) } else { Place::Ready });
            queue.note(id, now_ms, forget);
        }
    }
    for row in txn.open_table(DEAD)?.iter()? {
        queues.entry(row?.0.value().0.to_owned()).or_default().dead += 1;
    }
    Ok(queues)
}

/// Dead letters of a queue in a snapshot.
pub(crate) fn dead_letters(
    txn: &ReadTransaction,
    name: &str,
    after: u64,
    limit: usize,
) -> DbResult<Vec<DeadLetter>> {
    let (dead, messages) = (txn.open_table(DEAD)?, txn.open_table(MESSAGES)?);
    let mut letters = Vec::new();
    for row in dead.range((name, after.saturating_add(1))..=(name, u64::MAX))?.take(limit) {
        let (key, value) = row?;
        let (sequence, (attempt, id, reason)) = (key.value().1, value.value());
        let payload = messages.get((name, sequence))?;
        letters.push(DeadLetter {
            sequence,
            id: id.to_owned(),
            payload: payload.map(|row| Bytes::copy_from_slice(row.value())).unwrap_or_default(),
            attempt,
            reason: reason.to_owned(),
        });
    }
    Ok(letters)
}

/// Each dead letter of a queue and its size in bytes, in a snapshot.
pub(crate) fn letter_sizes(txn: &ReadTransaction, name: &str) -> DbResult<Vec<(u64, u64)>> {
    let (dead, messages) = (txn.open_table(DEAD)?, txn.open_table(MESSAGES)?);
    let mut sizes = Vec::new();
    for row in dead.range((name, 0)..=(name, u64::MAX))? {
        let (key, value) = row?;
        let (sequence, (_, id, reason)) = (key.value().1, value.value());
        let payload = messages.get((name, sequence))?.map_or(0, |row| row.value().len());
        sizes.push((sequence, (payload + id.len() + reason.len()) as u64));
    }
    Ok(sizes)
}
