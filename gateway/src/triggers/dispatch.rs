// SPDX-License-Identifier: Apache-2.0
//! From a queued event to what it starts, once.
//!
//! The store is asked what is there; the event itself is believed in nothing
//! but where to look. Then the outcome of that state of the object is looked
//! for, and only where there is none something is started. Invariant: an event
//! leaves here with a fate that is counted, or an error that says whose fault
//! it is.

use fanfold_backbone::CasOutcome;
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    event::{EventKind, Notice, ObjectEvent, compare_sequencers, derived_id, state_identity},
    keys, limits, time,
    uri::ObjectUri,
};
use fanfold_storage::{Error as StoreError, Meta, client::DEPTH_METADATA};

use super::{
    counters::Fate,
    intake::Waiting,
    outcome::{self, Outcome},
    record::Trigger,
    target,
};
use crate::{
    problem::{of_backbone, of_store},
    state::App,
};

/// How often the last event of a key is noted while others note theirs.
const TRIES_MAX: u32 = 16;

/// What the store says of an event's object.
enum Found {
    /// It is there, under this key.
    There(String, Box<Meta>),
    /// Nothing is there.
    Nothing,
}

/// Does with an event what is to be done.
///
/// # Errors
/// `trigger-loop`; what is wrong with what it starts; or the store or the
/// backbone does not answer. It may then have been started all the same;
/// doing this again finds it.
pub async fn act(app: &App, trigger: &Trigger, waiting: &Waiting) -> Result<Fate, Problem> {
    let (record, notice) = (&trigger.record, &waiting.notice);
    if record.document.ordered && waiting.replay.is_none() && is_stale(app, trigger, notice).await? {
        return Ok(Fate::Stale);
    }
    let found = look(app, notice).await?;
    let (key, meta) = match (notice.kind, found) {
        (EventKind::Created, Found::There(key, meta)) => (key, Some(meta)),
        (EventKind::Created, Found::Nothing) => return Ok(Fate::Gone),
        (EventKind::Removed, Found::Nothing) => (notice.key.clone(), None),
        // It was written again since; that has an event of its own.
        (EventKind::Removed, Found::There(..)) => return Ok(Fate::Changed),
    };
    if !trigger.admits_key(&notice.name, &key) {
        return Ok(Fate::Filtered);
    }
    let mut identity = match &meta {
        Some(meta) => state_identity(&notice.bucket, &key, &meta.pin, meta.last_modified),
        None => notice.identity(),
    };
    if let Some(replay) = waiting.replay {
        identity = Digest::of(format!("{}-{replay}", identity.to_hex()).as_bytes());
    }
    if outcome::exists(&app.backbone, &record.id, &identity).await? {
        return Ok(Fate::Duplicate);
    }
    let event = ObjectEvent {
        trigger: record.name.clone(),
        id: derived_id(&record.id, &identity),
        kind: notice.kind,
        bucket: notice.bucket.clone(),
        key,
        depth: meta.as_ref().map_or(0, |meta| depth(meta)),
        at: meta.as_ref().map_or_else(time::now, |meta| meta.last_modified),
        content_type: meta.as_ref().and_then(|meta| meta.content_type.clone()),
        object: meta.map(|meta| meta.pin),
    };
    if event.depth >= limits::CHAIN_DEPTH_MAX {
        return Err(too_deep(&event));
    }
    let Some(started) = target::start(app, &record.document, &event).await? else {
        return Ok(Fate::Filtered);
    };
    let outcome = Outcome { started, at: time::now() };
    outcome::put_once(&app.backbone, &record.id, &identity, &outcome).await?;
    let other = |pin: &fanfold_protocol::uri::Pin| notice.etag.as_ref().is_some_and(|etag| *etag != pin.etag);
    Ok(if event.object.as_ref().is_some_and(other) { Fate::StartedChanged } else { Fate::Started })
}

/// Asks the store for the object, under either reading of its key.
async fn look(app: &App, notice: &Notice) -> Result<Found, Problem> {
    for key in [Some(&notice.key), notice.other_key.as_ref()].into_iter().flatten() {
        let uri = ObjectUri::new(notice.bucket.clone(), key.clone())?;
        match app.store.head(&uri).await {
            Ok(meta) => return Ok(Found::There(key.clone(), Box::new(meta))),
            Err(StoreError::NotFound { .. }) => {}
            Err(error @ StoreError::NoSuchBucket { .. }) => {
                return Err(Problem::new(ErrorKind::BucketNotFound, error.to_string()));
            }
            Err(error) => return Err(of_store(error)),
        }
    }
    Ok(Found::Nothing)
}

/// How many triggers stand before the writer of this object. Stores that keep no
/// metadata make it zero; then the rate of the trigger must end a loop.
fn depth(meta: &Meta) -> u32 {
    meta.user_metadata.get(DEPTH_METADATA).and_then(|depth| depth.parse().ok()).unwrap_or(0)
}

/// Whether a later event of the same key was seen before; notes this one if not.
async fn is_stale(app: &App, trigger: &Trigger, notice: &Notice) -> Result<bool, Problem> {
    let Some(sequencer) = &notice.sequencer else { return Ok(false) };
    let key = keys::last_event(&trigger.record.id, &Digest::of(notice.key.as_bytes()));
    for _ in 0..TRIES_MAX {
        let entry = app.backbone.get(&key).await.map_err(of_backbone)?;
        let (value, window) = (sequencer.clone().into_bytes(), limits::IDEMPOTENCY_WINDOW);
        let noted = match entry {
            Some(entry) => {
                let last = String::from_utf8_lossy(&entry.value);
                match compare_sequencers(sequencer, &last) {
                    std::cmp::Ordering::Less => return Ok(true),
                    std::cmp::Ordering::Equal => return Ok(false),
                    std::cmp::Ordering::Greater => {}
                }
                app.backbone.update_with_ttl(&key, value, entry.revision, window).await
            }
            None => app.backbone.create_with_ttl(&key, value, window).await,
        };
        if let CasOutcome::Stored(_) = noted.map_err(of_backbone)? {
            return Ok(false);
        }
    }
    Err(Problem::new(
        ErrorKind::BackboneUnavailable,
        "expected to note the last event of a key, found others noting theirs all the time; try again",
    ))
}

fn too_deep(event: &ObjectEvent) -> Problem {
    Problem::new(
        ErrorKind::TriggerLoop,
        format!(
            "at most {} triggers may stand in the chain that leads to an event, found {} before {} at s3://{}/{}; \
             let what triggers start write where none of them looks",
            limits::CHAIN_DEPTH_MAX,
            event.depth,
            event.trigger,
            event.bucket,
            event.key
        ),
    )
}
