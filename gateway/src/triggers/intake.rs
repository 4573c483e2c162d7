// SPDX-License-Identifier: Apache-2.0
//! From notices to queued events: matched, counted, durable.
//!
//! Every trigger that matches has the event in a queue of its own, so that one
//! that is slow or paused holds up no other. Invariant: when this answers,
//! every event that a trigger acts on is on disk, or nothing is promised; a
//! sender that sends all of it again does no harm.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfold_backbone::{Backbone, Message};
use fanfold_protocol::{
    ErrorKind, Problem,
    event::Notice,
    keys,
    time::{self, Timestamp},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{counters::Fate, envelope::Envelope, record::Trigger, registry::Triggers};
use crate::problem::{internal, of_backbone};

/// How long the depth of a queue is remembered: it bounds a storm, to a few
/// thousand events more or less.
const DEPTH_REMEMBERED: Duration = Duration::from_millis(200);
/// Messages handed over at once, well within what a batch may weigh.
const BATCH_MESSAGES: usize = 1_000;

/// What became of a notification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Receipt {
    /// Records in it.
    pub events: usize,
    /// Events that are kept for a trigger, once for each trigger that acts on them.
    pub kept: usize,
    /// Copies of events that were kept a moment ago.
    pub duplicates: usize,
    /// Records that no trigger acts on.
    pub ignored: usize,
}

/// What there was room for, and where there was none.
pub struct Taken {
    /// Of the triggers with room.
    pub receipt: Receipt,
    /// The triggers without, of whose events none was kept, and what to say of each.
    pub full: Vec<(Arc<Trigger>, Problem)>,
}

/// What a queue holds: an event on its way to one trigger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The event.
    pub notice: Notice,
    /// When it was taken in.
    pub at: Timestamp,
    /// Started again although it has an outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Uuid>,
    /// How often it waited for its turn.
    #[serde(default, skip_serializing_if = "is_first")]
    pub turns: u32,
}

fn is_first(turns: &u32) -> bool {
    *turns == 0
}

impl Waiting {
    /// The message that carries it: copies of an event have one id.
    pub fn message(&self) -> Result<Message, Problem> {
        let identity = self.notice.identity().to_hex();
        let mut id = self.replay.map_or_else(|| identity.clone(), |replay| format!("{identity}-{replay}"));
        if self.turns > 0 {
            id = format!("{id}-{}", self.turns);
        }
        Ok(Message::new(id, serde_json::to_vec(self).map_err(internal)?))
    }
}

/// How full queues were a moment ago.
pub struct Rooms {
    most: u64,
    seen: Mutex<HashMap<Uuid, (Instant, u64)>>,
}

impl Rooms {
    /// Queues that may hold so many events each.
    pub fn new(most: u64) -> Self {
        Self { most, seen: Mutex::default() }
    }

    /// Fails where a queue is full.
    async fn check(&self, backbone: &Backbone, trigger: &Trigger, wanted: usize) -> Result<(), Problem> {
        let id = trigger.record.id;
        let fresh = |(at, depth): &(Instant, u64)| (at.elapsed() < DEPTH_REMEMBERED).then_some(*depth);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&id).and_then(fresh);
        let depth = match seen {
            Some(depth) => depth,
            None => {
                let depth = backbone.depth(&keys::event_queue(&id)).await.map_err(of_backbone)?;
                let depth = depth.ready + depth.delayed;
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.retain(|_, (at, _)| at.elapsed() < DEPTH_REMEMBERED);
                seen.insert(id, (Instant::now(), depth));
                depth
            }
        };
        if depth + wanted as u64 <= self.most {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, depth)) = seen.get_mut(&id) {
                *depth += wanted as u64;
            }
            return Ok(());
        }
        Err(Problem::new(
            ErrorKind::QueueFull,
            format!(
                "at most {} events may wait for {}, found as many; send it again later, or raise the trigger's \
                 concurrency",
                self.most, trigger.record.name
            ),
        ))
    }
}

/// Fails while so many events more would be too many for a trigger.
///
/// # Errors
/// `queue-full`; or the backbone does not answer.
pub async fn check_room(triggers: &Triggers, trigger: &Trigger, wanted: usize) -> Result<(), Problem> {
    triggers.rooms().check(triggers.backbone(), trigger, wanted).await
}

/// Takes in a notification, for one trigger or for whichever act on it. Where one
/// of them is full, the others have their events all the same, and drop the copies
/// when all of it is sent again.
///
/// # Errors
/// `bucket-not-found` when no trigger knows any of its buckets, `queue-full`;
/// or the backbone does not answer.
pub async fn take_in(
    triggers: &Triggers,
    envelope: Envelope,
    only: Option<&Arc<Trigger>>,
) -> Result<Receipt, Problem> {
    let taken = take_what_fits(triggers, envelope, only).await?;
    match taken.full.into_iter().next() {
        Some((_, problem)) => Err(problem),
        None => Ok(taken.receipt),
    }
}

/// The same for whoever sends nothing again.
///
/// # Errors
/// `bucket-not-found` when no trigger knows any of its buckets; or the backbone
/// does not answer.
pub async fn take_what_fits(
    triggers: &Triggers,
    envelope: Envelope,
    only: Option<&Arc<Trigger>>,
) -> Result<Taken, Problem> {
    let mut receipt = Receipt {
        events: envelope.notices.len() + envelope.other,
        ignored: envelope.other,
        ..Receipt::default()
    };
    let (now, mut known) = (time::now(), envelope.notices.is_empty());
    let candidates = only.map_or_else(|| triggers.list(), |trigger| vec![Arc::clone(trigger)]);
    let mut queues: BTreeMap<Uuid, (&Arc<Trigger>, Vec<Waiting>)> = BTreeMap::new();
    let found = envelope.notices.first().map(|notice| notice.bucket.clone()).unwrap_or_default();
    for notice in envelope.notices {
        known = known || candidates.iter().any(|trigger| trigger.record.document.bucket == notice.bucket);
        let mut matching = candidates.iter().filter(|trigger| trigger.admits(&notice)).peekable();
        receipt.ignored += usize::from(matching.peek().is_none());
        for trigger in matching {
            let (_, waiting) = queues.entry(trigger.record.id).or_insert_with(|| (trigger, Vec::new()));
            waiting.push(Waiting { notice: notice.clone(), at: now, replay: None, turns: 0 });
        }
    }
    triggers.counters().unmatched(receipt.ignored as u64);
    if !known {
        return Err(Problem::new(
            ErrorKind::BucketNotFound,
            format!(
                "expected events of a bucket that a trigger names, found {:?}; correct the notification's address, or \
                 make a trigger for that bucket",
                found.chars().take(80).collect::<String>()
            ),
        ));
    }
    let mut full = Vec::new();
    for (trigger, waiting) in queues.into_values() {
        match enqueue(triggers, trigger, &waiting).await {
            Ok((kept, duplicates)) => {
                receipt.kept += kept;
                receipt.duplicates += duplicates;
            }
            Err(problem) if problem.code == ErrorKind::QueueFull => full.push((Arc::clone(trigger), problem)),
            // Others would find the backbone as it is, each after a while.
            Err(problem) => return Err(problem),
        }
    }
    Ok(Taken { receipt, full })
}

/// Queues events of one trigger, durably; answers how many were new and how
/// many copies.
///
/// # Errors
/// `queue-full`; or the backbone does not answer.
pub async fn enqueue(
    triggers: &Triggers,
    trigger: &Trigger,
    waiting: &[Waiting],
) -> Result<(usize, usize), Problem> {
    let backbone = triggers.backbone();
    triggers.rooms().check(backbone, trigger, waiting.len()).await?;
    let (mut kept, mut duplicates) = (0, 0);
    for batch in waiting.chunks(BATCH_MESSAGES) {
        let messages = batch.iter().map(Waiting::message).collect::<Result<Vec<_>, _>>()?;
        let queue = keys::event_queue(&trigger.record.id);
        let done = backbone.enqueue(&queue, messages).await.map_err(of_backbone)?;
        kept += done.accepted;
        duplicates += done.duplicates;
    }
    triggers.counters().events(&trigger.record.name, Fate::Kept, kept as u64);
    triggers.counters().events(&trigger.record.name, Fate::Duplicate, duplicates as u64);
    Ok((kept, duplicates))
}
