// SPDX-License-Identifier: Apache-2.0
//! From a queued event to what it starts, once.
//!
//! The store is asked what is there; the event itself is believed in nothing
//! but where to look. Then the outcome of that state of the object is looked
//! for, and only where there is none something is started. Invariant: an event
//! leaves here with a fate that is counted, or an error that says whose fault
//! it is.

use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    event::{EventKind, Notice, ObjectEvent, derived_id, state_identity},
    limits, time,
    uri::ObjectUri,
};
use fanfold_storage::{Error as StoreError, Meta, client::DEPTH_METADATA};
use uuid::Uuid;

use super::{
    counters::Fate,
    intake::Waiting,
    order::{self, Turns},
    outcome::{self, Started, Written},
    record::Trigger,
    target,
};
use crate::{problem::of_store, state::App};

/// What the store says of an event's object.
enum Found {
    /// It is there, under this key.
    There(String, Box<Meta>),
    /// Nothing is there.
    Nothing,
}

/// An event that is to start something.
#[derive(Debug)]
pub struct Candidate {
    /// Names the state that its outcome belongs to.
    pub identity: Digest,
    /// What is told of it.
    pub event: ObjectEvent,
    /// Whether the notification told of another object.
    differs: bool,
}

impl Candidate {
    /// What became of it, once it has started something.
    pub fn fate(&self) -> Fate {
        if self.differs { Fate::StartedChanged } else { Fate::Started }
    }
}

/// What is to be done with an event.
pub enum Next {
    /// It is to start something.
    Start(Box<Candidate>),
    /// This state belongs to this batch, which may not have been ended.
    Begun(Digest, Uuid),
    /// It has to wait for its turn.
    Wait,
    /// It is settled.
    Settled(Fate),
    /// This state may start nothing, and why.
    Refused(Digest, Problem),
}

/// Finds out what is to be done with an event, and takes its turn where there are some.
///
/// # Errors
/// The store or the backbone does not answer.
pub async fn examine(
    app: &App,
    trigger: &Trigger,
    turns: &Turns,
    waiting: &Waiting,
) -> Result<Next, Problem> {
    let (record, notice) = (&trigger.record, &waiting.notice);
    let noted = record.document.ordered && waiting.replay.is_none();
    // Of what is there only the newest state can be started, however late it is told of.
    if noted && order::is_stale(app, trigger, notice).await? && notice.kind == EventKind::Removed {
        return Ok(Next::Settled(Fate::Stale));
    }
    let (key, meta) = match (notice.kind, look(app, trigger, notice).await?) {
        (EventKind::Created, Found::There(key, meta)) => (key, Some(meta)),
        (EventKind::Created, Found::Nothing) => return Ok(Next::Settled(Fate::Gone)),
        (EventKind::Removed, Found::Nothing) => (removed_key(trigger, notice).to_owned(), None),
        // It was written again since; that has an event of its own.
        (EventKind::Removed, Found::There(..)) => return Ok(Next::Settled(Fate::Changed)),
    };
    // A key that ends in `/` marks a folder: as the input of a job it would mean everything in it.
    let marks_folder = record.document.job.is_some() && key.ends_with('/');
    if marks_folder || !trigger.admits_key(&notice.name, &key) {
        return Ok(Next::Settled(Fate::Filtered));
    }
    let mut identity = match &meta {
        Some(meta) => state_identity(&notice.bucket, &key, &meta.pin, meta.last_modified),
        None => notice.identity(),
    };
    if let Some(replay) = waiting.replay {
        identity = Digest::of(format!("{}-{replay}", identity.to_hex()).as_bytes());
    }
    let outcome = outcome::get(&app.backbone, &record.id, &identity).await?;
    match outcome.and_then(|outcome| outcome.started) {
        Some(Started::Batch { id }) => return Ok(Next::Begun(identity, id)),
        Some(_) => return Ok(Next::Settled(Fate::Duplicate)),
        None => {}
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
        return Ok(Next::Refused(identity, too_deep(&event)));
    }
    if record.document.ordered && !turns.take(app, trigger, &event).await? {
        return Ok(Next::Wait);
    }
    let other = |pin: &fanfold_protocol::uri::Pin| notice.etag.as_ref().is_some_and(|etag| *etag != pin.etag);
    let differs = event.object.as_ref().is_some_and(other);
    Ok(Next::Start(Box::new(Candidate { identity, event, differs })))
}

/// Starts something for one event; none when it was started before.
///
/// # Errors
/// What is wrong with what it starts; or the store or the backbone does not
/// answer. It may then have been started all the same; doing this again finds it.
pub async fn start(app: &App, trigger: &Trigger, candidate: &Candidate) -> Result<Option<Started>, Problem> {
    let (record, event) = (&trigger.record, &candidate.event);
    let started = target::start(app, record, std::slice::from_ref(event), event.id, false).await;
    if record.document.ordered {
        order::note(app, trigger, event, started.as_ref().ok().and_then(Option::as_ref)).await?;
    }
    let started = started?;
    // Which job was started before, its key alone tells: it counts as a batch of one that was ended.
    let outcome = started.clone().unwrap_or(Started::Batch { id: event.id });
    let written =
        outcome::put_once(&app.backbone, &record.id, &candidate.identity, event.kind, outcome).await?;
    // Other events of the same state may have been examined side by side with this one: all are
    // accepted under one id, and start one thing, for the one that writes it down.
    Ok(started.filter(|_| written == Written::Now))
}

/// The key of an object that is gone, of which the store can't tell how it was
/// written: as the notification has it, unless only the other reading is meant.
fn removed_key<'a>(trigger: &Trigger, notice: &'a Notice) -> &'a str {
    let other = notice.other_key.as_ref().filter(|other| {
        !trigger.admits_key(&notice.name, &notice.key) && trigger.admits_key(&notice.name, other)
    });
    other.unwrap_or(&notice.key)
}

/// Asks the store for the object, under either reading of its key. Of one that is
/// gone only the reading counts that it is told under: what lies under the other
/// may never have been meant.
async fn look(app: &App, trigger: &Trigger, notice: &Notice) -> Result<Found, Problem> {
    let keys = match notice.kind {
        EventKind::Created => [Some(notice.key.as_str()), notice.other_key.as_deref()],
        EventKind::Removed => [Some(removed_key(trigger, notice)), None],
    };
    for key in keys.into_iter().flatten() {
        let uri = ObjectUri::new(notice.bucket.clone(), key)?;
        match app.store.head(&uri).await {
            Ok(meta) => return Ok(Found::There(key.to_owned(), Box::new(meta))),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) if error.kind() == ErrorKind::BucketNotFound => {
                return Err(Problem::new(ErrorKind::BucketNotFound, error.to_string()));
            }
            Err(error) => return Err(of_store(error)),
        }
    }
    Ok(Found::Nothing)
}

/// Whether the object that an event told of is there no more.
///
/// # Errors
/// The store does not answer.
pub async fn is_gone(app: &App, event: &ObjectEvent) -> Result<bool, Problem> {
    if event.kind == EventKind::Removed {
        return Ok(false);
    }
    let uri = ObjectUri::new(event.bucket.clone(), event.key.as_str())?;
    match app.store.head(&uri).await {
        Ok(_) => Ok(false),
        Err(StoreError::NotFound { .. }) => Ok(true),
        Err(error) => Err(of_store(error)),
    }
}

/// How many triggers stand before the writer of this object. Stores that keep no
/// metadata make it zero; then the rate of the trigger must end a loop.
fn depth(meta: &Meta) -> u32 {
    meta.user_metadata.get(DEPTH_METADATA).and_then(|depth| depth.parse().ok()).unwrap_or(0)
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
