// SPDX-License-Identifier: Apache-2.0
//! From notices to queued events: matched, counted, durable.
//!
//! Every trigger that matches has the event in a queue of its own, so that one
//! that is slow or paused holds up no other. Invariant: when this answers,
//! every event that a trigger acts on is on disk, or nothing is promised; a
//! sender that sends all of it again does no harm.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfold_backbone::{Backbone, Message};
use fanfold_protocol::{
    ErrorKind, Problem,
    event::{EventKind, Notice},
    keys,
    time::{self, Timestamp},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{counters::Fate, envelope::Envelope, record::Trigger, registry::Triggers};
use crate::problem::{excerpt, internal, of_backbone};

/// How long the depth of a queue is remembered: it bounds a storm, to a few
/// thousand events more or less.
const DEPTH_REMEMBERED: Duration = Duration::from_millis(200);
/// Messages handed over at once, well within what a batch may weigh.
const BATCH_MESSAGES: usize = 1_000;
/// How long events are held against triggers before others have their turn: a long
/// pattern may take milliseconds for a long key, and there may be millions of pairs.
const MATCHING_MAX: Duration = Duration::from_millis(5);

/// Lets others have their turn where many events are held against triggers.
pub struct YieldTimer(Instant);

impl YieldTimer {
    /// Others have just had their turn.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Waited for after each event.
    pub async fn pass(&mut self) {
        if self.0.elapsed() >= MATCHING_MAX {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}

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
    /// Queued because somebody asked for it after it was given up, however short ago it was queued before; what it
    /// starts is as ever.
    #[serde(skip)]
    pub asked: Option<Uuid>,
    /// How often it waited for its turn.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub turns: u32,
    /// How often it was put back because something else was to blame or in its way.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub put_back: u32,
    /// How often it had failed by its own fault before it was queued anew: deliveries of a message that are no failed
    /// attempts end with another message.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Waiting {
    /// One that was taken in at this time, and not tried yet.
    pub fn new(notice: Notice, at: Timestamp, replay: Option<Uuid>) -> Self {
        Self { notice, at, replay, asked: None, turns: 0, put_back: 0, failures: 0 }
    }

    /// The message that carries it: copies of an event have one id, until it is queued anew. What says neither its
    /// place in the order nor its time may be another event of an object that has changed, and is none's copy but of
    /// what came with it; an outcome then shows whether there is something to start.
    pub fn message(&self) -> Result<Message, Problem> {
        let notice = &self.notice;
        let mut id = notice.identity().to_hex();
        if let Some(asked) = self.replay.or(self.asked) {
            id = format!("{id}-{asked}");
        } else if notice.kind == EventKind::Created && notice.sequencer.is_none() && notice.time.is_none() {
            id = format!("{id}-{}", self.at.0);
        }
        let anew = self.turns.saturating_add(self.put_back);
        if anew > 0 {
            id = format!("{id}-{}-{anew}", self.at.0);
        }
        Ok(Message::new(id, serde_json::to_vec(self).map_err(internal)?))
    }
}

/// What each release says of what waits, and of a message that cannot be read.
#[derive(Deserialize)]
struct Dated {
    at: Timestamp,
}

/// When that was taken in which a queue holds; none when it does not say.
pub fn taken_at(payload: &[u8]) -> Option<Timestamp> {
    serde_json::from_slice::<Dated>(payload).ok().map(|dated| dated.at)
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
                let depth = depth.waiting(trigger.in_work_max());
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
    let Envelope { notices, other, .. } = envelope;
    let mut receipt = Receipt { events: notices.len() + other, ..Receipt::default() };
    let candidates = only.map_or_else(|| triggers.list(), |trigger| vec![Arc::clone(trigger)]);
    if let Err(problem) = check_buckets(&notices, &candidates) {
        triggers.counters().unmatched(receipt.events as u64);
        return Err(problem);
    }
    let (now, mut timer) = (time::now(), YieldTimer::begin());
    let (mut full, mut ignored) = (Vec::new(), vec![true; notices.len()]);
    // One trigger after the other: the events of all of them together may be more than
    // there is memory for.
    for trigger in &candidates {
        let matching = matching(trigger, &notices, &mut ignored, &mut timer).await;
        if matching.is_empty() {
            continue;
        }
        match enqueue_notices(triggers, trigger, &matching, now).await {
            Ok((kept, duplicates)) => {
                receipt.kept += kept;
                receipt.duplicates += duplicates;
            }
            Err(problem) if problem.code == ErrorKind::QueueFull => full.push((Arc::clone(trigger), problem)),
            // Others would find the backbone as it is, each after a while.
            Err(problem) => return Err(problem),
        }
    }
    receipt.ignored = other + ignored.into_iter().filter(|ignored| *ignored).count();
    triggers.counters().unmatched(receipt.ignored as u64);
    Ok(Taken { receipt, full })
}

/// Refuses a notification that only tells of buckets that no trigger names.
fn check_buckets(notices: &[Notice], candidates: &[Arc<Trigger>]) -> Result<(), Problem> {
    let known: HashSet<&str> =
        candidates.iter().map(|trigger| trigger.record.document.bucket.as_str()).collect();
    match notices.first() {
        Some(first) if !notices.iter().any(|notice| known.contains(notice.bucket.as_str())) => {
            Err(Problem::new(
                ErrorKind::BucketNotFound,
                format!(
                    "expected events of a bucket that a trigger names, found {:?}; correct the notification's address, \
                     or make a trigger for that bucket",
                    excerpt(&first.bucket)
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// The notices that a trigger acts on, which are not ignored then.
async fn matching<'a>(
    trigger: &Trigger,
    notices: &'a [Notice],
    ignored: &mut [bool],
    timer: &mut YieldTimer,
) -> Vec<&'a Notice> {
    let mut matching = Vec::new();
    for (index, notice) in notices.iter().enumerate() {
        if trigger.admits(notice) {
            ignored[index] = false;
            matching.push(notice);
        }
        timer.pass().await;
    }
    matching
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
    check_room(triggers, trigger, waiting.len()).await?;
    let (mut kept, mut duplicates) = (0, 0);
    for batch in waiting.chunks(BATCH_MESSAGES) {
        let (new, copies) = put(triggers, trigger, batch).await?;
        (kept, duplicates) = (kept + new, duplicates + copies);
    }
    Ok((kept, duplicates))
}

/// The same with what a notification told at this time: there is room for all or for
/// none of it, and only a batch of it at a time is made into messages.
async fn enqueue_notices(
    triggers: &Triggers,
    trigger: &Trigger,
    notices: &[&Notice],
    at: Timestamp,
) -> Result<(usize, usize), Problem> {
    check_room(triggers, trigger, notices.len()).await?;
    let (mut kept, mut duplicates) = (0, 0);
    for batch in notices.chunks(BATCH_MESSAGES) {
        let batch: Vec<Waiting> =
            batch.iter().map(|notice| Waiting::new((*notice).clone(), at, None)).collect();
        let (new, copies) = put(triggers, trigger, &batch).await?;
        (kept, duplicates) = (kept + new, duplicates + copies);
    }
    Ok((kept, duplicates))
}

/// Queues a batch; answers how many were new and how many copies.
async fn put(triggers: &Triggers, trigger: &Trigger, batch: &[Waiting]) -> Result<(usize, usize), Problem> {
    let messages = batch.iter().map(Waiting::message).collect::<Result<Vec<_>, _>>()?;
    let queue = keys::event_queue(&trigger.record.id);
    let done = triggers.backbone().enqueue(&queue, messages).await.map_err(of_backbone)?;
    triggers.counters().events(&trigger.record.name, Fate::Kept, done.accepted as u64);
    triggers.counters().events(&trigger.record.name, Fate::Duplicate, done.duplicates as u64);
    Ok((done.accepted, done.duplicates))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(key: &str) -> Notice {
        Notice {
            bucket: "bank".into(),
            key: key.into(),
            other_key: None,
            kind: EventKind::Created,
            name: "ObjectCreated:Put".into(),
            etag: None,
            version_id: None,
            sequencer: Some("01".into()),
            time: None,
        }
    }

    fn id(waiting: &Waiting) -> String {
        waiting.message().unwrap().id
    }

    #[test]
    fn what_says_not_when_it_happened_is_no_copy_of_what_came_before() {
        let differ = |notice: Notice| {
            let at = |ms: u64| id(&Waiting::new(notice.clone(), Timestamp(ms), None));
            assert_eq!(at(7), at(7));
            at(7) != at(8)
        };
        let bare = Notice { sequencer: None, ..notice("a") };
        assert!(differ(bare.clone()));
        assert!(differ(Notice { etag: Some("e".into()), ..bare.clone() }));
        assert!(!differ(Notice { time: Some("2026-11-22T11:54:56Z".into()), ..bare.clone() }));
        assert!(!differ(notice("a")));
        // Nothing is left of a removal that could tell whether it has started something.
        assert!(!differ(Notice { kind: EventKind::Removed, ..bare }));
    }

    #[test]
    fn what_was_asked_for_is_no_copy_and_is_told_as_ever() {
        let found = Waiting::new(notice("a"), Timestamp(7), None);
        let asked = |n: u128| Waiting { asked: Some(Uuid::from_u128(n)), ..found.clone() };
        let ids: HashSet<String> = [&found, &asked(1), &asked(2)].map(id).into();
        assert_eq!(ids.len(), 3, "{ids:?}");
        assert_eq!(asked(1).message().unwrap().payload, found.message().unwrap().payload);
    }

    #[test]
    fn a_message_has_another_id_each_time_that_its_event_is_queued_anew() {
        let first = Waiting::new(notice("a"), Timestamp(7), None);
        // Copies are one, whenever they come.
        assert_eq!(id(&first), id(&Waiting::new(notice("a"), Timestamp(8), None)));
        assert_ne!(id(&first), id(&Waiting::new(notice("b"), Timestamp(7), None)));
        assert_ne!(id(&first), id(&Waiting::new(notice("a"), Timestamp(7), Some(Uuid::nil()))));
        let waited = Waiting { turns: 1, ..first.clone() };
        let put_back = Waiting { put_back: 1, ..waited.clone() };
        let of_another = Waiting { at: Timestamp(8), ..waited.clone() };
        let ids: HashSet<String> = [&first, &waited, &put_back, &of_another].map(id).into();
        assert_eq!(ids.len(), 4, "{ids:?}");
        // What was never put back is written as older releases did.
        let text = String::from_utf8(first.message().unwrap().payload.to_vec()).unwrap();
        assert!(
            !text.contains("put_back") && !text.contains("failures") && !text.contains("turns"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Waiting>(&text).unwrap(), first);
    }
}
