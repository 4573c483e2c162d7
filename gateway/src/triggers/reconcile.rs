// SPDX-License-Identifier: Apache-2.0
//! Finds the objects whose events were lost, and those from before there was a
//! trigger.
//!
//! A look lists what the trigger acts on and holds it against the outcomes;
//! whatever has none is queued like an event that came in. What was given up has
//! one, and is fed again only when somebody asks for it. The cost of a look is one
//! request for a thousand objects, a page of the backbone for a thousand
//! outcomes, and two requests for the packed outcomes. Outcomes of states that a
//! whole look has not seen are left to lapse, so that there are as many as objects;
//! that is done once a day also where no look is asked for. What the trigger acted
//! on before is listed for that once a day as well.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use fanfold_backbone::CasOutcome;
use fanfold_protocol::{
    ErrorKind, Problem,
    event::{EventKind, Notice},
    keys, limits,
    time::{self, Timestamp},
    uri::Pin,
};
use fanfold_storage::{ListEntry, ListOptions, Meter, Store};
use futures::{FutureExt, StreamExt, TryStreamExt};
use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    intake::{self, Waiting, YieldTimer},
    record::Trigger,
    registry,
    settled::{self, Known, Short},
};
use crate::{
    problem::{of_backbone, of_store},
    state::{App, AppState},
};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_secs(1);
/// Before the rest is looked for that there was no room for.
const REST_PAUSE: Duration = Duration::from_secs(60);
/// Triggers looked at beside each other.
const LOOKS_AT_ONCE: usize = 4;
/// Events queued at once.
const BATCH: usize = 1_000;
/// Events that may wait where looks start something. What waits has no outcome and would be
/// queued once more, until there is room for nothing that is new.
const WAITING_MAX: u64 = 1_000;
/// Before a full queue is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Which of the objects that a trigger acts on are looked at.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Keys that begin like this.
    pub prefix: String,
    /// Written at this time or later.
    pub since: Option<Timestamp>,
    /// Written before this time.
    pub until: Option<Timestamp>,
    /// Starts also what was started before, under this name.
    pub again: Option<Uuid>,
    /// Starts also what was given up before, however short ago.
    pub given_up: bool,
    /// Waits for room where a queue is full.
    pub patient: bool,
}

/// What a look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Found {
    /// Objects that were listed.
    pub listed: u64,
    /// Events that were queued for them.
    pub queued: u64,
}

/// When a trigger is looked at.
struct Turn {
    last: Instant,
    /// A look is due, or one for what there was no room for.
    wanted: bool,
    rest_wanted: bool,
    /// One look at a time; dropped, it ends. Tells whether there was room for all.
    looking: Option<AbortOnDropHandle<bool>>,
    /// When to look for the rest.
    rest_at: Option<Instant>,
    /// When the last look began.
    looked_at: Option<Instant>,
}

impl Turn {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            wanted: false,
            rest_wanted: false,
            looking: None,
            rest_at: None,
            looked_at: None,
        }
    }

    /// Whether a look may begin.
    fn is_due(&self) -> bool {
        self.looking.is_none() && (self.wanted || self.rest_wanted)
    }

    /// Begins a look.
    fn begin(&mut self, app: &AppState, trigger: Arc<Trigger>) {
        let (app, for_the_rest) = (Arc::clone(app), !self.wanted);
        (self.wanted, self.rest_wanted, self.looked_at) = (false, false, Some(Instant::now()));
        let look = async move { look_and_tell(&app, &trigger, for_the_rest).await };
        self.looking = Some(AbortOnDropHandle::new(tokio::spawn(look)));
    }

    /// Takes note of events that there was no room for. They are looked for at once,
    /// or a while after the last look: as long as there is no room, one is as vain as
    /// the other.
    fn missed(&mut self) {
        let at = self.looked_at.map_or_else(Instant::now, |at| at + REST_PAUSE);
        self.rest_at.get_or_insert(at);
    }

    /// Takes note of the end of its look.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(looking) = &mut self.looking else { return Poll::Pending };
        let Poll::Ready(done) = looking.poll_unpin(context) else { return Poll::Pending };
        self.looking = None;
        if !done.unwrap_or(true) {
            self.rest_at = Some(Instant::now() + REST_PAUSE);
        }
        Poll::Ready(())
    }
}

/// Looks for what was lost, now, on schedule, and whenever something was lost:
/// triggers beside each other, so that one that is full or slow holds up no other.
pub async fn run(app: AppState) {
    let mut looks = app.triggers.looks();
    let mut turns: HashMap<Uuid, Turn> = HashMap::new();
    // What happened while nobody listened.
    let mut all = true;
    loop {
        let triggers = app.triggers.list();
        note_what_is_due(&app, &mut turns, &triggers, all).await;
        let mut tick = std::pin::pin!(tokio::time::sleep(TICK));
        all = loop {
            let busy = turns.values().filter(|turn| turn.looking.is_some()).count();
            for trigger in next(&turns, &triggers, LOOKS_AT_ONCE.saturating_sub(busy)) {
                if let Some(turn) = turns.get_mut(&trigger.record.id) {
                    turn.begin(&app, trigger);
                }
            }
            tokio::select! {
                _ = looks.changed() => break true,
                () = &mut tick => break false,
                // The next one does not wait for the clock.
                () = an_end(&mut turns) => {}
            }
        };
    }
}

/// Notes which triggers are to be looked at, and forgets those that are gone, with their looks.
async fn note_what_is_due(
    app: &AppState,
    turns: &mut HashMap<Uuid, Turn>,
    triggers: &[Arc<Trigger>],
    all: bool,
) {
    let missed = app.triggers.take_missed();
    let there: HashSet<Uuid> = triggers.iter().map(|trigger| trigger.record.id).collect();
    turns.retain(|id, _| there.contains(id));
    for trigger in triggers {
        let interval = interval(trigger);
        let turn = turns.entry(trigger.record.id).or_insert_with(Turn::new);
        if missed.contains(&trigger.record.id) {
            turn.missed();
        }
        turn.wanted |= all;
        turn.rest_wanted |= turn.rest_at.take_if(|at| *at <= Instant::now()).is_some();
        if turn.last.elapsed() >= interval {
            turn.last = Instant::now();
            turn.wanted |= is_ours(app, trigger, interval).await;
        }
    }
}

/// Waits until a look has ended.
async fn an_end(turns: &mut HashMap<Uuid, Turn>) {
    // All of them are asked, so that each wakes this.
    let poll = |context: &mut Context<'_>| {
        let ended = turns.values_mut().map(|turn| usize::from(turn.poll_end(context).is_ready()));
        if ended.sum::<usize>() > 0 { Poll::Ready(()) } else { Poll::Pending }
    };
    std::future::poll_fn(poll).await;
}

/// So many triggers whose look is due, first those whose last one began longest ago: some whose
/// looks follow each other at once keep none from its own.
fn next(turns: &HashMap<Uuid, Turn>, triggers: &[Arc<Trigger>], most: usize) -> Vec<Arc<Trigger>> {
    let turn = |trigger: &Arc<Trigger>| turns.get(&trigger.record.id);
    let is_next = |trigger: &&Arc<Trigger>| !trigger.record.paused && turn(trigger).is_some_and(Turn::is_due);
    let mut next: Vec<Arc<Trigger>> = triggers.iter().filter(is_next).cloned().collect();
    next.sort_by_key(|trigger| turn(trigger).and_then(|turn| turn.looked_at));
    next.truncate(most);
    next
}

/// Whether looks on schedule start something. Those of a trigger that acts on objects written
/// in some ways would start others as well: a listing does not tell the way.
fn feeds(trigger: &Trigger) -> bool {
    let document = &trigger.record.document;
    document.reconcile.0 != 0 && document.acts_on_all_created()
}

/// Between two looks. A trigger whose looks start nothing has one a day, to settle what is gone.
fn interval(trigger: &Trigger) -> Duration {
    if feeds(trigger) { trigger.record.document.reconcile.as_duration() } else { limits::IDEMPOTENCY_WINDOW }
}

/// Whether this gateway is the one to look this time: for most of the interval no other is, but not for
/// all of it, else it would miss its own next turn by a moment.
async fn is_ours(app: &App, trigger: &Trigger, interval: Duration) -> bool {
    let key = keys::last_look(&trigger.record.id);
    let taken = app.backbone.create_with_ttl(&key, Bytes::new(), interval / 5 * 4).await;
    matches!(taken, Ok(CasOutcome::Stored(_)))
}

/// Looks at a trigger, on schedule or for what there was no room for; tells whether there was
/// room for all that was found.
async fn look_and_tell(app: &App, trigger: &Trigger, for_the_rest: bool) -> bool {
    let record = &trigger.record;
    // Objects from before the trigger are fed when somebody asks for it.
    let since = Timestamp(record.created_at.0 / 1_000 * 1_000);
    let scope = Scope { since: Some(since), ..Scope::default() };
    let feeds = feeds(trigger);
    let crowded = if feeds { is_crowded(app, trigger).await } else { Ok(false) };
    let has_room = matches!(crowded, Ok(false));
    let looked = match crowded {
        Ok(false) if feeds => look(app, trigger, &scope).await,
        Ok(_) if for_the_rest => return has_room,
        Ok(_) => tidy(app, trigger).await,
        Err(problem) => Err(problem),
    };
    match looked {
        Ok(found) if found.queued > 0 => {
            tracing::info!(trigger = %record.name, listed = found.listed, queued = found.queued, "objects without an outcome were found");
        }
        Ok(_) => {}
        Err(problem) if problem.code == ErrorKind::QueueFull => {
            tracing::info!(trigger = %record.name, "there is no room for all objects without an outcome; the rest is looked for soon");
            return false;
        }
        Err(problem) => {
            tracing::warn!(trigger = %record.name, detail = %problem.detail, "objects were not looked for; this is tried again");
        }
    }
    has_room
}

/// Whether too much waits for a look to start something.
async fn is_crowded(app: &App, trigger: &Trigger) -> Result<bool, Problem> {
    let depth = app.backbone.depth(&keys::event_queue(&trigger.record.id)).await.map_err(of_backbone)?;
    Ok(depth.waiting(trigger.in_work_max()) > WAITING_MAX)
}

/// Queues an event for every object in scope that has no outcome.
///
/// # Errors
/// The store or the backbone does not answer. What was queued until then stays.
pub async fn look(app: &App, trigger: &Trigger, scope: &Scope) -> Result<Found, Problem> {
    let record = &trigger.record;
    let mut known = settled::outcomes(app, &record.id).await?;
    let store = app.store.with_meter(Meter::new());
    let packed = settled::unpack(&store, app, &record.id).await?;
    for short in &packed {
        known.entry(*short).or_default();
    }
    let found = match record.document.acts_on_created() {
        true => feed(app, trigger, &store, scope, &mut known).await,
        // No listing shows a removal.
        false => Ok(Found::default()),
    };
    let is_whole = scope.prefix.is_empty() && scope.until.is_none();
    if found.is_ok() && is_whole {
        let all_seen = see_former(app, trigger, &store, &mut known).await?;
        settled::pack(&store, app, &record.id, &known, &packed, all_seen).await?;
        if all_seen {
            settled::settle(app, &record.id, &known, gone_after(trigger)).await?;
        }
    }
    let (listed, queued) = found.as_ref().map_or((0, 0), |found| (found.listed, found.queued));
    app.triggers.counters().reconciled(&record.name, listed, queued, store.meter().usage().requests);
    found
}

/// Settles the outcomes and feeds nothing: the prefix is listed only where there are some.
async fn tidy(app: &App, trigger: &Trigger) -> Result<Found, Problem> {
    if settled::outcomes(app, &trigger.record.id).await?.is_empty() {
        return Ok(Found::default());
    }
    let nothing = Scope { since: Some(Timestamp(u64::MAX)), ..Scope::default() };
    look(app, trigger, &nothing).await
}

/// How long the outcome of a state stays that a look has not seen: until another look, which
/// may see what one listing left out, and not less than a day.
fn gone_after(trigger: &Trigger) -> Duration {
    interval(trigger).max(limits::IDEMPOTENCY_WINDOW).saturating_add(limits::IDEMPOTENCY_WINDOW)
}

/// Sees the states of what the trigger acted on before, once a day; tells whether all that may
/// have an outcome was looked for.
async fn see_former(
    app: &App,
    trigger: &Trigger,
    store: &Store,
    known: &mut HashMap<Short, Known>,
) -> Result<bool, Problem> {
    let record = &trigger.record;
    if record.formerly.is_empty() || known.values().all(|known| known.seen) {
        return Ok(true);
    }
    // The next day's turn is not missed when its look is sooner done.
    let (key, once) = (keys::last_sweep(&record.id), limits::IDEMPOTENCY_WINDOW / 2);
    let taken = app.backbone.create_with_ttl(&key, Bytes::new(), once).await.map_err(of_backbone)?;
    if !taken.is_stored() {
        return Ok(false);
    }
    let (mut listed, bucket) = (0, &record.document.bucket);
    for prefix in &record.formerly {
        let mut listing = std::pin::pin!(store.list(bucket, prefix, ListOptions::default()));
        while let Some(entry) = listing.next().await {
            let (key, pin, last_modified) = match entry {
                Ok(ListEntry::Object { key, pin, last_modified }) => (key, pin, last_modified),
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(trigger = %record.name, prefix, %error, "what was acted on before cannot be listed");
                    return Ok(false);
                }
            };
            listed += 1;
            // No look lists as much, so that none would start anything for the rest.
            if listed > limits::LISTED_KEYS_MAX {
                tracing::warn!(trigger = %record.name, prefix, "what was acted on before is too much to be listed");
                return Ok(true);
            }
            if let Some(known) = settled::find(known, bucket, &key, &pin, last_modified) {
                known.seen = true;
            }
        }
    }
    Ok(true)
}

async fn feed(
    app: &App,
    trigger: &Trigger,
    store: &Store,
    scope: &Scope,
    known: &mut HashMap<Short, Known>,
) -> Result<Found, Problem> {
    let document = &trigger.record.document;
    let literal = trigger.literal();
    if !literal.starts_with(&scope.prefix) && !scope.prefix.starts_with(literal) {
        return Ok(Found::default());
    }
    let prefix = if scope.prefix.len() > literal.len() { &scope.prefix } else { literal };
    let (name, asked) = (listed_name(trigger), scope.given_up.then(Uuid::now_v7));
    let mut listing = std::pin::pin!(store.list(&document.bucket, prefix, ListOptions::default()));
    let (mut found, mut batch, mut timer) = (Found::default(), Vec::new(), YieldTimer::begin());
    while let Some(entry) = listing.try_next().await.map_err(about_bucket)? {
        let ListEntry::Object { key, pin, last_modified } = entry else { continue };
        // Whole pages are there at once.
        timer.pass().await;
        found.listed += 1;
        if found.listed > limits::LISTED_KEYS_MAX as u64 {
            return Err(Problem::new(
                ErrorKind::PartitionLimit,
                format!(
                    "at most {} objects are looked at, found more under s3://{}/{prefix}; give a longer prefix",
                    limits::LISTED_KEYS_MAX,
                    document.bucket
                ),
            ));
        }
        // What has no outcome yet may wait in the queue: it is not queued again and again with each replay.
        let (is_known, asked) = match settled::find(known, &document.bucket, &key, &pin, last_modified) {
            Some(known) => {
                known.seen = true;
                let asked = asked.filter(|_| known.given_up);
                (asked.is_none(), asked)
            }
            None => (false, None),
        };
        let in_time = scope.since.is_none_or(|since| last_modified >= since)
            && scope.until.is_none_or(|until| last_modified < until);
        if !in_time || is_known && scope.again.is_none() || !trigger.admits_key(&name, &key) {
            continue;
        }
        let notice = notice(document.bucket.clone(), key, &name, &pin, last_modified);
        batch.push(Waiting { asked, ..Waiting::new(notice, time::now(), scope.again) });
        if batch.len() == BATCH {
            found.queued += queue(app, trigger, &mut batch, scope.patient).await?;
        }
    }
    found.queued += queue(app, trigger, &mut batch, scope.patient).await?;
    Ok(found)
}

/// Queues a batch, and waits for room as long as it takes where one is patient, unless the
/// gateway stops meanwhile. For a trigger that is removed by then nothing is queued:
/// nobody would ever take it.
async fn queue(
    app: &App,
    trigger: &Trigger,
    batch: &mut Vec<Waiting>,
    patient: bool,
) -> Result<u64, Problem> {
    let record = &trigger.record;
    while !batch.is_empty() {
        if app.triggers.by_id(&record.id).is_none() {
            return Err(registry::not_found(&record.name));
        }
        match intake::enqueue(&app.triggers, trigger, batch).await {
            Ok((kept, _)) => {
                batch.clear();
                return Ok(kept as u64);
            }
            Err(problem)
                if patient && problem.code == ErrorKind::QueueFull && !app.draining.is_cancelled() =>
            {
                tokio::time::sleep(PAUSE).await
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(0)
}

/// A name of an event that passes the trigger's filter: a listing knows none.
fn listed_name(trigger: &Trigger) -> String {
    let events = &trigger.record.document.events;
    let plain = |name: &String| name.strip_prefix("s3:").unwrap_or(name).trim_end_matches('*').to_owned();
    let created = events
        .iter()
        .map(plain)
        .filter(|name| "ObjectCreated:".starts_with(name.as_str()) || name.starts_with("ObjectCreated:"));
    let any = created.clone().any(|name| "ObjectCreated:Put".starts_with(&name));
    if any { "ObjectCreated:Put".to_owned() } else { created.into_iter().next().unwrap_or_default() }
}

/// An event for an object that is there: the same of each look, until it is written again.
fn notice(bucket: String, key: String, name: &str, pin: &Pin, last_modified: Timestamp) -> Notice {
    Notice {
        bucket,
        key,
        other_key: None,
        kind: EventKind::Created,
        name: name.to_owned(),
        etag: Some(pin.etag.clone()),
        version_id: None,
        sequencer: None,
        time: Some(last_modified.to_string()),
    }
}

fn about_bucket(error: fanfold_storage::Error) -> Problem {
    match error.kind() {
        kind @ ErrorKind::BucketNotFound => Problem::new(kind, error.to_string()),
        _ => of_store(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::record::tests::trigger, *};

    #[test]
    fn who_was_looked_at_longest_ago_is_next() {
        let mut turns = HashMap::new();
        let now = Instant::now();
        let mut add = |name: &str, looked_at: Option<Instant>, wanted: bool, paused: bool| {
            let mut trigger = trigger(name, json!({"bucket": "bank", "function": "f"}));
            trigger.record.paused = paused;
            let turn = Turn { looked_at, wanted, rest_wanted: name == "rest", ..Turn::new() };
            turns.insert(trigger.record.id, turn);
            Arc::new(trigger)
        };
        let later = |seconds: u64| Some(now + Duration::from_secs(seconds));
        let triggers = vec![
            add("a-busy", later(9), true, false),
            add("b-busy", later(8), true, false),
            add("idle", later(1), false, false),
            add("new", None, true, false),
            add("paused", None, true, true),
            add("rest", later(7), false, false),
        ];
        let names = |most: usize| {
            let next = next(&turns, &triggers, most);
            next.iter().map(|trigger| trigger.record.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(3), ["new", "rest", "b-busy"]);
        assert_eq!(names(9), ["new", "rest", "b-busy", "a-busy"]);
        assert!(names(0).is_empty());
    }
}
