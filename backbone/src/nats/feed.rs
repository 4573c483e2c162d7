// SPDX-License-Identifier: Apache-2.0
//! The state of a part of a stream, and then what changes: what listings and watches read from.
//!
//! A consumer in the server's memory that acknowledges nothing and begins with the last message of each subject.
//! Its copy may lag behind the stream's leader, so the leader is asked first how far the state has to reach: what
//! was written before is in it. Who may not ask the leader waits for what it has seen itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::datetime::DateTime;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::stream::LastRawMessageErrorKind;

use uuid::Uuid;

use super::fault::unavailable;
use super::intake::{Heard, Intake};
use super::record::Record;
use super::{Core, Stream};
use crate::error::Result;
use crate::name::Scope;

/// Messages of one request.
const BATCH: usize = 512;
/// How long to wait for a copy that lags behind before the leader is asked again.
pub(super) const LAG_WAIT: Duration = Duration::from_millis(100);
/// After how much silence the server drops a consumer that was left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// What a scope holds, by key; removals included.
pub(super) type State = BTreeMap<String, Record>;

/// Records of a scope as they come.
pub(super) struct Feed {
    intake: Intake,
    /// When the servers made the consumer, by their clock.
    made: DateTime,
    /// What the consumer numbered last; a gap means that something was lost on the way.
    last: u64,
}

impl Feed {
    /// Reads the whole state of a scope, of which the revision `seen` was read before; what follows is read with
    /// [`Feed::next`]. With `headers_only`, values are empty.
    pub(super) async fn open(
        core: &Core,
        scope: &Scope,
        headers_only: bool,
        seen: u64,
    ) -> Result<(State, Self)> {
        core.insist(|| Self::begin(core, scope, headers_only, seen)).await
    }

    async fn begin(core: &Core, scope: &Scope, headers_only: bool, seen: u64) -> Result<(State, Self)> {
        let filter = core.names.scope(scope);
        let mut reach = core.reach(&filter, seen, Duration::ZERO).await?;
        let config = Config { headers_only, ..reader(&filter, DeliverPolicy::LastPerSubject) };
        let consumer = core.keys.create_consumer(config).await.map_err(unavailable)?;
        let made = consumer.cached_info().created;
        let mut feed = Feed { intake: Intake::open(&core.jetstream, consumer).await?, made, last: 0 };
        let (mut state, mut reached, begun) = (State::new(), 0, Instant::now());
        loop {
            let wait = if reached < reach { LAG_WAIT } else { Duration::ZERO };
            let (messages, is_drained) = feed.intake.batch(BATCH, wait).await?;
            for message in messages {
                if let Some((key, record)) = feed.read(core, &message)? {
                    reached = reached.max(record.revision);
                    state.insert(key, record);
                }
            }
            if is_drained && reached >= reach {
                return Ok((state, feed));
            }
            if is_drained {
                reach = core.reach(&filter, seen, begun.elapsed()).await?;
            }
        }
    }

    /// The next record, or nothing for a while. Cancelling it loses nothing.
    pub(super) async fn next(&mut self, core: &Core) -> Result<Option<(String, Record)>> {
        if !self.intake.is_asking() {
            self.intake.follow(BATCH).await?;
        }
        match self.intake.next().await? {
            Heard::Message(message) => self.read(core, &message),
            Heard::End => Ok(None),
        }
    }

    /// Ends it and spares the server the wait for that.
    pub(super) fn close(self, core: &Core) {
        if core.restricted {
            return;
        }
        let (stream, name) = (core.keys.clone(), self.intake.consumer_name().to_owned());
        // Where it fails, the server drops the consumer by itself after a while.
        tokio::spawn(async move { drop(stream.delete_consumer(&name).await) });
    }

    fn read(&mut self, core: &Core, message: &Message) -> Result<Option<(String, Record)>> {
        let info = message.info().map_err(unavailable)?;
        if info.consumer_sequence != self.last + 1 {
            return Err(unavailable("a consumer left out messages"));
        }
        self.last = info.consumer_sequence;
        // What came after the consumer has no age, nor has what lies before a clock that was set back.
        let age = Duration::try_from(self.made - info.published).unwrap_or_default();
        let record = Record { age, ..Record::of_delivered(message)? };
        let Some(key) = core.names.key_of(&message.subject) else { return Ok(None) };
        core.lapses.note(&key, &record, Instant::now());
        Ok(Some((key, record)))
    }
}

impl Core {
    /// How far a state has to reach that was waited for so long. Who may not ask the leader takes what its copy has
    /// once that is no less than was seen before; servers that lost their data never get there, nor do those that have
    /// swept a removal which was seen.
    async fn reach(&self, filter: &str, seen: u64, waited: Duration) -> Result<u64> {
        if !self.restricted {
            return self.soon(|| last_sequence(&self.keys, filter)).await;
        }
        Ok(if waited < self.operation_timeout { seen } else { 0 })
    }
}

/// A consumer that only reads.
pub(super) fn reader(filter: &str, deliver_policy: DeliverPolicy) -> Config {
    Config {
        // With a name, the subject by which it is made has the filter in it, so that a server can allow it.
        name: Some(Uuid::new_v4().simple().to_string()),
        deliver_policy,
        ack_policy: AckPolicy::None,
        filter_subject: filter.to_owned(),
        inactive_threshold: LEFT_BEHIND,
        num_replicas: 1,
        memory_storage: true,
        ..Config::default()
    }
}

/// The last message under a filter, as the stream's leader has it; 0 where there is none.
pub(super) async fn last_sequence(stream: &Stream, filter: &str) -> Result<u64> {
    match stream.get_last_raw_message_by_subject(filter).await {
        Ok(message) => Ok(message.sequence),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
        Err(error) => Err(unavailable(error)),
    }
}
