// SPDX-License-Identifier: Apache-2.0
//! Finds the objects whose events were lost, and those from before there was a
//! trigger.
//!
//! A look lists what the trigger acts on and holds it against the outcomes;
//! whatever has none is queued like an event that came in. What was given up has
//! one, and is fed again only when somebody asks for it. The cost of a look is one
//! request for a thousand objects, a page of the backbone for a thousand
//! outcomes, and two requests for the packed outcomes, which let a lost
//! backbone be no reason to start everything again. Outcomes of states that are
//! gone are forgotten here after a day, so that there are as many as objects;
//! that is done once a day also where no look is asked for.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use fanfold_backbone::CasOutcome;
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    event::{EventKind, Notice, state_identity},
    keys, limits,
    time::{self, Timestamp},
    uri::{ObjectUri, Pin},
};
use fanfold_storage::{ListEntry, ListOptions, Meter, PutOptions, Store};
use futures::{FutureExt, TryStreamExt};
use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    intake::{self, Turns, Waiting},
    outcome::Outcome,
    record::Trigger,
    registry,
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
/// Before a full queue is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of an identity that are kept: two of a billion objects meet by one in 10^20.
const SHORT: usize = 16;

type Short = [u8; SHORT];

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
    /// Starts also what was given up before.
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

/// What is known of a state.
#[derive(Clone, Copy, Default)]
struct Known {
    /// It has an outcome in the backbone, of before yesterday.
    old: bool,
    /// It is there still.
    seen: bool,
    /// It has started nothing and was given up.
    given_up: bool,
}

/// When a trigger is looked at.
struct Turn {
    last: Instant,
    wanted: bool,
    /// One look at a time; dropped, it ends. Tells whether there was room for all.
    looking: Option<AbortOnDropHandle<bool>>,
    /// When to look for the rest.
    rest_at: Option<Instant>,
    /// When the last look began.
    looked_at: Option<Instant>,
}

impl Turn {
    fn new() -> Self {
        Self { last: Instant::now(), wanted: false, looking: None, rest_at: None, looked_at: None }
    }

    /// Takes note of events that there was no room for. They are looked for at once,
    /// or a while after the last look: as long as there is no room, one is as vain as
    /// the other.
    fn missed(&mut self) {
        let at = self.looked_at.map_or_else(Instant::now, |at| at + REST_PAUSE);
        self.rest_at.get_or_insert(at);
    }

    /// Whether a look goes on; takes note of the end of one.
    fn is_busy(&mut self) -> bool {
        let Some(looking) = &mut self.looking else { return false };
        let Some(done) = looking.now_or_never() else { return true };
        self.looking = None;
        if !done.unwrap_or(true) {
            self.rest_at = Some(Instant::now() + REST_PAUSE);
        }
        false
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
        let missed = app.triggers.take_missed();
        let triggers = app.triggers.list();
        turns.retain(|id, _| triggers.iter().any(|trigger| trigger.record.id == *id));
        let mut busy: usize = turns.values_mut().map(|turn| usize::from(turn.is_busy())).sum();
        for trigger in triggers {
            let interval = interval(&trigger);
            let turn = turns.entry(trigger.record.id).or_insert_with(Turn::new);
            if missed.contains(&trigger.record.id) {
                turn.missed();
            }
            turn.wanted |= all || turn.rest_at.take_if(|at| *at <= Instant::now()).is_some();
            if turn.last.elapsed() >= interval {
                turn.last = Instant::now();
                turn.wanted |= is_ours(&app, &trigger, interval).await;
            }
            let may = turn.looking.is_none() && !trigger.record.paused && busy < LOOKS_AT_ONCE;
            if turn.wanted && may {
                let app = Arc::clone(&app);
                (turn.wanted, turn.looked_at) = (false, Some(Instant::now()));
                let look = async move { look_and_tell(&app, &trigger).await };
                turn.looking = Some(AbortOnDropHandle::new(tokio::spawn(look)));
                busy += 1;
            }
        }
        all = tokio::time::timeout(TICK, looks.changed()).await.is_ok();
    }
}

/// Between two looks. A trigger that is not to be looked at is so once a day, to
/// forget what is gone.
fn interval(trigger: &Trigger) -> Duration {
    let interval = trigger.record.document.reconcile.as_duration();
    if interval.is_zero() { limits::IDEMPOTENCY_WINDOW } else { interval }
}

/// Whether this gateway is the one to look this time.
async fn is_ours(app: &App, trigger: &Trigger, interval: Duration) -> bool {
    let key = keys::last_look(&trigger.record.id);
    let taken = app.backbone.create_with_ttl(&key, Bytes::new(), interval / 2).await;
    matches!(taken, Ok(CasOutcome::Stored(_)))
}

/// Looks at a trigger; tells whether there was room for all that was found.
async fn look_and_tell(app: &App, trigger: &Trigger) -> bool {
    let record = &trigger.record;
    // Objects from before the trigger are fed when somebody asks for it.
    let since = Timestamp(record.created_at.0 / 1_000 * 1_000);
    let scope = Scope { since: Some(since), ..Scope::default() };
    let looked = match record.document.reconcile.0 {
        0 => tidy(app, trigger).await,
        _ => look(app, trigger, &scope).await,
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
    true
}

/// Queues an event for every object in scope that has no outcome.
///
/// # Errors
/// The store or the backbone does not answer. What was queued until then stays.
pub async fn look(app: &App, trigger: &Trigger, scope: &Scope) -> Result<Found, Problem> {
    let record = &trigger.record;
    let mut known = outcomes(app, &record.id).await?;
    if !record.document.acts_on_created() {
        // All of them are of removals, which no listing shows.
        forget(app, &record.id, &known).await?;
        return Ok(Found::default());
    }
    let store = app.store.with_meter(Meter::new());
    let packed = unpack(&store, app, &record.id).await?;
    for short in &packed {
        known.entry(*short).or_default();
    }
    let found = feed(app, trigger, &store, scope, &mut known).await;
    let is_whole = scope.prefix.is_empty() && scope.until.is_none();
    if found.is_ok() && is_whole {
        pack(&store, app, &record.id, &known, &packed).await?;
        forget(app, &record.id, &known).await?;
    }
    let (listed, queued) = found.as_ref().map_or((0, 0), |found| (found.listed, found.queued));
    app.triggers.counters().reconciled(&record.name, listed, queued, store.meter().usage().requests);
    found
}

/// Forgets outcomes of what is gone, and feeds nothing: the prefix is listed only
/// where there may be some.
async fn tidy(app: &App, trigger: &Trigger) -> Result<Found, Problem> {
    if !outcomes(app, &trigger.record.id).await?.values().any(|known| known.old) {
        return Ok(Found::default());
    }
    let nothing = Scope { since: Some(Timestamp(u64::MAX)), ..Scope::default() };
    look(app, trigger, &nothing).await
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
    let name = listed_name(trigger);
    let mut listing = std::pin::pin!(store.list(&document.bucket, prefix, ListOptions::default()));
    let (mut found, mut batch, mut turns) = (Found::default(), Vec::new(), Turns::begin());
    while let Some(entry) = listing.try_next().await.map_err(about_bucket)? {
        let ListEntry::Object { key, pin, last_modified } = entry else { continue };
        // Whole pages are there at once.
        turns.pass().await;
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
        let short = short(&state_identity(&document.bucket, &key, &pin, last_modified));
        let is_known = match known.get_mut(&short) {
            Some(known) => {
                known.seen = true;
                !(known.given_up && scope.given_up)
            }
            None => false,
        };
        let in_time = scope.since.is_none_or(|since| last_modified >= since)
            && scope.until.is_none_or(|until| last_modified < until);
        if !in_time || is_known && scope.again.is_none() || !trigger.admits_key(&name, &key) {
            continue;
        }
        let notice = notice(document.bucket.clone(), key, &name, &pin);
        batch.push(Waiting::new(notice, time::now(), scope.again));
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

fn notice(bucket: String, key: String, name: &str, pin: &Pin) -> Notice {
    Notice {
        bucket,
        key,
        other_key: None,
        kind: EventKind::Created,
        name: name.to_owned(),
        etag: Some(pin.etag.clone()),
        version_id: None,
        sequencer: None,
        time: None,
    }
}

fn about_bucket(error: fanfold_storage::Error) -> Problem {
    match error {
        error @ fanfold_storage::Error::NoSuchBucket { .. } => {
            Problem::new(ErrorKind::BucketNotFound, error.to_string())
        }
        error => of_store(error),
    }
}

fn short(identity: &Digest) -> Short {
    let mut short = [0; SHORT];
    short.copy_from_slice(&identity.as_bytes()[..SHORT]);
    short
}

fn short_of_key(key: &str) -> Option<Short> {
    let mut short = [0; SHORT];
    hex::decode_to_slice(key.rsplit('/').next()?.get(..2 * SHORT)?, &mut short).ok()?;
    Some(short)
}

/// The outcomes in the backbone.
async fn outcomes(app: &App, trigger: &Uuid) -> Result<HashMap<Short, Known>, Problem> {
    let (scope, now) = (keys::outcomes(trigger), time::now());
    let mut known = HashMap::new();
    let mut after = None;
    loop {
        let page = app.backbone.list_part(&scope, after.as_deref()).await.map_err(of_backbone)?;
        for (key, entry) in &page.entries {
            let outcome = serde_json::from_slice::<Outcome>(&entry.value).ok();
            let is_old = |outcome: &Outcome| now.since(outcome.at) > limits::IDEMPOTENCY_WINDOW;
            let old = outcome.as_ref().is_some_and(is_old);
            let given_up = outcome.as_ref().is_some_and(Outcome::is_given_up);
            known.extend(short_of_key(key).map(|short| (short, Known { old, seen: false, given_up })));
        }
        after = page.next;
        if after.is_none() {
            return Ok(known);
        }
    }
}

/// Forgets outcomes of states that are gone for a day. Those of removals are
/// among them: their copies have long come.
async fn forget(app: &App, trigger: &Uuid, known: &HashMap<Short, Known>) -> Result<(), Problem> {
    if !known.values().any(|known| known.old && !known.seen) {
        return Ok(());
    }
    let scope = keys::outcomes(trigger);
    let mut after = None;
    loop {
        let page = app.backbone.list_part(&scope, after.as_deref()).await.map_err(of_backbone)?;
        for (key, _) in &page.entries {
            let gone = short_of_key(key).and_then(|short| known.get(&short));
            if gone.is_some_and(|known| known.old && !known.seen) {
                app.backbone.delete(key, None).await.map_err(of_backbone)?;
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// The outcomes that the store keeps for the day the backbone is lost.
async fn unpack(store: &Store, app: &App, trigger: &Uuid) -> Result<Vec<Short>, Problem> {
    let uri = ObjectUri::new(app.config.tenant.system_bucket.clone(), keys::packed_outcomes(trigger))?;
    match store.get(&uri, None).await {
        Ok(bytes) => Ok(bytes.as_chunks::<SHORT>().0.to_vec()),
        Err(fanfold_storage::Error::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(of_store(error)),
    }
}

/// Writes down the outcomes of all states that are there, unless nothing changed.
/// What was given up is tried again where its dead letter was lost with the backbone.
async fn pack(
    store: &Store,
    app: &App,
    trigger: &Uuid,
    known: &HashMap<Short, Known>,
    packed: &[Short],
) -> Result<(), Problem> {
    let mut settled: Vec<Short> =
        known.iter().filter(|(_, known)| known.seen && !known.given_up).map(|(short, _)| *short).collect();
    settled.sort_unstable();
    if settled == packed {
        return Ok(());
    }
    let mut body = BytesMut::with_capacity(settled.len() * SHORT);
    settled.iter().for_each(|short| body.put_slice(short));
    let uri = ObjectUri::new(app.config.tenant.system_bucket.clone(), keys::packed_outcomes(trigger))?;
    let options = PutOptions::typed("application/octet-stream");
    store.put(&uri, body.freeze(), options).await.map(drop).map_err(of_store)
}

/// Removes the outcomes that the store keeps of a trigger that is gone.
pub async fn drop_packed(app: &App, trigger: &Uuid) {
    let uri = ObjectUri::new(app.config.tenant.system_bucket.clone(), keys::packed_outcomes(trigger));
    let Ok(uri) = uri else { return };
    if let Err(error) = app.store.delete(&uri).await {
        tracing::warn!(%uri, %error, "outcomes of a removed trigger stay behind until the next start");
    }
}
