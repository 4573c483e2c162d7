// SPDX-License-Identifier: Apache-2.0
//! The sending side of the work queue: enqueue, depth, dead letters.
//!
//! A batch is sent down one connection in order and its acknowledgements are awaited together. Dead letters lie in
//! a stream of their own, stored before the message is acknowledged and known by where it lay, so that a crash
//! between the two leaves one letter.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::context::{ConsumerInfoErrorKind, PublishError};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{DeleteMessageErrorKind, RawMessageErrorKind};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::fault::{SILENT, failed_publish, is_in_process, is_unheard, unavailable};
use super::feed::{LAG_WAIT, last_sequence, reader};
use super::intake::Intake;
use super::names;
use super::{Core, RETRY_AFTER};
use crate::bounds::{DURATION_MAX, REASON_BYTES_MAX};
use crate::error::Result;
use crate::name::check_key;
use crate::queue::{DeadLetter, Depth, Enqueued, Message, check_batch};

const ABOUT: &str = "Fanfold-Message";
/// The header with which the server says how large the payload is that it left out.
const PAYLOAD_BYTES: &str = "Nats-Msg-Size";
/// Before a message is sent again of which another copy was being stored.
const IN_PROCESS: Duration = Duration::from_millis(10);
/// Dead letters of one request.
const LETTERS: usize = 256;

/// What is made of a dead letter: of its sequence, its headers and its payload.
type Read<T> = fn(u64, Option<&HeaderMap>, Bytes) -> T;

/// What travels beside the payload, as JSON in one header: ids may hold any character.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) id: String,
    /// To be delivered so much later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) delay_ms: Option<u64>,
    /// Deliveries of a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attempt: Option<u32>,
    /// Why it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

impl About {
    /// What a message says of itself; a foreign one says nothing.
    pub(super) fn read(headers: Option<&HeaderMap>) -> Self {
        let text = headers.and_then(|headers| headers.get(ABOUT));
        text.and_then(|text| serde_json::from_str(text.as_str()).ok()).unwrap_or_default()
    }

    /// A message to be stored once for each `copy_id`.
    pub(super) fn message(&self, payload: Bytes, copy_id: &str) -> Result<PublishMessage> {
        let text = serde_json::to_string(self).map_err(unavailable)?;
        Ok(PublishMessage::build().message_id(copy_id).header(ABOUT, text).payload(payload))
    }
}

impl Core {
    pub(super) async fn enqueue(&self, queue: &str, messages: Vec<Message>) -> Result<Enqueued> {
        check_batch(queue, &messages)?;
        let (ready, delayed) = (self.names.ready(queue), self.names.delayed(queue));
        let mut batch = Vec::with_capacity(messages.len());
        for message in messages {
            let delay_ms = message
                .delay
                .filter(|delay| !delay.is_zero())
                .map(|delay| u64::try_from(delay.min(DURATION_MAX).as_millis()).unwrap_or(u64::MAX));
            let subject = if delay_ms.is_some() { &delayed } else { &ready };
            let copy_id = names::message_id(queue, &message.id);
            let about = About { id: message.id, delay_ms, ..About::default() };
            batch.push((subject.clone(), about.message(message.payload, &copy_id)?));
        }
        let begun = Instant::now();
        let mut outcome = Enqueued::default();
        while !batch.is_empty() {
            batch = self.send(batch, &mut outcome, begun).await?;
        }
        Ok(outcome)
    }

    /// Sends a batch; answers what has to be sent again: another copy of it is being stored, or no server heard it.
    async fn send(
        &self,
        batch: Vec<(String, PublishMessage)>,
        outcome: &mut Enqueued,
        begun: Instant,
    ) -> Result<Vec<(String, PublishMessage)>> {
        // All are handed to the one connection in their order, before the first is acknowledged.
        let mut acks = Vec::with_capacity(batch.len());
        for (subject, message) in &batch {
            acks.push(self.heard(move || self.send_one(subject, message)));
        }
        let acks = join_all(acks).await;
        let has_time = begun.elapsed() < self.operation_timeout;
        let (mut again, mut pause) = (Vec::new(), IN_PROCESS);
        for (ack, sent) in acks.into_iter().zip(batch) {
            match ack {
                Some((Ok(ack), _)) if ack.duplicate => outcome.duplicates += 1,
                Some((Ok(_), _)) => outcome.accepted += 1,
                Some((Err(failure), _)) if is_in_process(&failure) && has_time => again.push(sent),
                Some((Err(failure), _)) if is_unheard(&failure) && has_time => {
                    pause = RETRY_AFTER;
                    again.push(sent);
                }
                Some((Err(failure), _)) => return Err(failed_publish(&failure)),
                None => return Err(unavailable(SILENT)),
            }
        }
        if !again.is_empty() {
            sleep(pause).await;
        }
        Ok(again)
    }

    async fn send_one(
        &self,
        subject: &str,
        message: &PublishMessage,
    ) -> std::result::Result<PublishAck, PublishError> {
        self.jetstream.send_publish(subject.to_owned(), message.clone()).await?.await
    }

    pub(super) async fn depth(&self, queue: &str) -> Result<Depth> {
        check_key(queue)?;
        self.insist(|| self.soon(move || self.read_depth(queue))).await
    }

    async fn read_depth(&self, queue: &str) -> Result<Depth> {
        let stream = self.work(queue);
        let count = async |stream: &super::Stream, subject: String| -> Result<u64> {
            let info = stream.info_with_subjects(subject).await.map_err(unavailable)?;
            let counts: Vec<(String, usize)> = info.try_collect().await.map_err(unavailable)?;
            Ok(counts.iter().map(|(_, count)| *count as u64).sum())
        };
        let (delayed, queued, dead) = tokio::try_join!(
            count(stream, self.names.delayed(queue)),
            count(stream, self.names.ready(queue)),
            count(&self.dead, self.names.dead(queue)),
        )?;
        let leased = match stream.consumer_info(names::consumer(queue)).await {
            Ok(info) => info.num_ack_pending as u64,
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => 0,
            Err(error) => return Err(unavailable(error)),
        };
        Ok(Depth { ready: queued.saturating_sub(leased), leased: leased.min(queued), delayed, dead })
    }

    pub(super) async fn dead_letters(
        &self,
        queue: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        check_key(queue)?;
        self.insist(|| self.read_letters(queue, after, limit, false, letter)).await
    }

    /// Each dead letter and its size in bytes, of which no payload is read.
    pub(super) async fn letter_sizes(&self, queue: &str) -> Result<Vec<(u64, u64)>> {
        check_key(queue)?;
        let sized: Read<(u64, u64)> = |sequence, headers, _| (sequence, size(headers));
        self.insist(|| self.read_letters(queue, 0, usize::MAX, true, sized)).await
    }

    async fn read_letters<T>(
        &self,
        queue: &str,
        after: u64,
        limit: usize,
        headers_only: bool,
        read: Read<T>,
    ) -> Result<Vec<T>> {
        let subject = self.names.dead(queue);
        let mut reach = last_sequence(&self.dead, &subject).await?;
        if reach <= after {
            return Ok(Vec::new());
        }
        let start = DeliverPolicy::ByStartSequence { start_sequence: after.saturating_add(1) };
        let config = Config { headers_only, ..reader(&subject, start) };
        let consumer = self.dead.create_consumer(config).await.map_err(unavailable)?;
        let mut intake = Intake::open(&self.jetstream, consumer).await?;
        let (mut letters, mut reached) = (Vec::new(), after);
        while letters.len() < limit && reached < reach {
            let wanted = LETTERS.min(limit - letters.len());
            let (messages, is_drained) = intake.batch(wanted, LAG_WAIT).await?;
            for message in messages {
                reached = message.info().map_err(unavailable)?.stream_sequence;
                letters.push(read(reached, message.headers.as_ref(), message.payload.clone()));
            }
            if is_drained {
                reach = last_sequence(&self.dead, &subject).await?;
            }
        }
        // Where it fails, the server drops the consumer by itself after a while.
        drop(self.dead.delete_consumer(intake.consumer_name()).await);
        Ok(letters)
    }

    pub(super) async fn replay(&self, queue: &str, sequences: Vec<u64>) -> Result<usize> {
        check_key(queue)?;
        let mut count = 0;
        for sequence in distinct(sequences) {
            let Some(letter) = self.letter(queue, sequence).await? else { continue };
            let about = About { id: letter.id, ..About::default() };
            let message = about.message(letter.payload, &format!("replay {sequence}"))?;
            let sent = self.jetstream.send_publish(self.names.ready(queue), message).await;
            let ack = sent.map_err(|failure| failed_publish(&failure))?;
            ack.await.map_err(|failure| failed_publish(&failure))?;
            count += usize::from(self.remove_letter(sequence).await?);
        }
        Ok(count)
    }

    pub(super) async fn discard(&self, queue: &str, sequences: Vec<u64>) -> Result<usize> {
        check_key(queue)?;
        let mut count = 0;
        for sequence in distinct(sequences) {
            if self.letter(queue, sequence).await?.is_some() {
                count += usize::from(self.remove_letter(sequence).await?);
            }
        }
        Ok(count)
    }

    /// Stores a dead letter, once for each place that a message lay in.
    pub(super) async fn bury(&self, queue: &str, sequence: u64, about: &About, payload: Bytes) -> Result<()> {
        let place = format!("{} {sequence}", self.names.work_stream(self.names.shard(queue)));
        let message = about.message(payload, &place)?;
        let sent = self.jetstream.send_publish(self.names.dead(queue), message).await;
        let ack = sent.map_err(|failure| failed_publish(&failure))?;
        ack.await.map(drop).map_err(|failure| failed_publish(&failure))
    }

    async fn letter(&self, queue: &str, sequence: u64) -> Result<Option<DeadLetter>> {
        match self.dead.get_raw_message(sequence).await {
            Ok(found) if found.subject.as_str() == self.names.dead(queue) => {
                Ok(Some(letter(sequence, Some(&found.headers), found.payload)))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// False where somebody else removed it.
    async fn remove_letter(&self, sequence: u64) -> Result<bool> {
        match self.dead.delete_message(sequence).await {
            Ok(removed) => Ok(removed),
            Err(error) => match error.kind() {
                DeleteMessageErrorKind::JetStream(_) => Ok(false),
                _ => Err(unavailable(error)),
            },
        }
    }
}

/// A reason cut so that it fits a header, however it has to be escaped.
pub(super) fn kept_reason(reason: &str) -> &str {
    let mut kept = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    while serde_json::to_string(kept).is_ok_and(|text| text.len() > REASON_BYTES_MAX + 2) {
        kept = &kept[..kept.floor_char_boundary(kept.len() - kept.len() / 8 - 1)];
    }
    kept
}

fn letter(sequence: u64, headers: Option<&HeaderMap>, payload: Bytes) -> DeadLetter {
    let about = About::read(headers);
    DeadLetter {
        sequence,
        id: about.id,
        payload,
        attempt: about.attempt.unwrap_or_default(),
        reason: about.reason.unwrap_or_default(),
    }
}

/// The size of a letter whose payload was left out.
fn size(headers: Option<&HeaderMap>) -> u64 {
    let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str());
    let payload: u64 = header(PAYLOAD_BYTES).and_then(|bytes| bytes.parse().ok()).unwrap_or_default();
    payload + header(ABOUT).map_or(0, str::len) as u64
}

fn distinct(sequences: Vec<u64>) -> impl Iterator<Item = u64> {
    let mut seen = HashSet::new();
    sequences.into_iter().filter(move |sequence| seen.insert(*sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_fits_its_header() {
        assert_eq!(kept_reason("short"), "short");
        for long in ["\0".repeat(5_000), "ä".repeat(5_000), "\"".repeat(3_000)] {
            let kept = kept_reason(&long);
            assert!(!kept.is_empty() && long.starts_with(kept));
            assert!(serde_json::to_string(kept).unwrap().len() <= REASON_BYTES_MAX + 2);
        }
    }
}
