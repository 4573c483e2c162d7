// SPDX-License-Identifier: Apache-2.0
//! A worker's place among the others: a record that lapses unless it is renewed.
//!
//! Whoever holds the record of a name is the worker of that name. Invariant: a
//! record is changed by its own instance only, by compare-and-set; a worker that
//! was cut off for longer than its lease comes back as soon as it can, unless
//! another has taken its name.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fanfold_backbone::{Backbone, CasOutcome, Entry, Event};
use fanfold_protocol::{
    ErrorKind, Problem, keys,
    names::WorkerName,
    seldom::Seldom,
    worker::{MEMBER_LEASE, MEMBER_RENEWAL, Member},
};
use futures::StreamExt as _;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Between two looks whether a name has become free.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A worker's own record.
pub struct Membership {
    backbone: Backbone,
    key: String,
    member: Member,
    revision: u64,
    /// Another has the name, and was told so.
    is_ousted: Arc<AtomicBool>,
}

/// Takes the name of a worker. A record that an earlier start left behind is
/// waited for until it lapses.
///
/// # Errors
/// `invalid-settings` when another worker of this name renews its record; or the
/// backbone does not answer.
pub async fn join(backbone: &Backbone, member: Member) -> Result<Membership, Problem> {
    let key = keys::member(&member.name);
    let patience = Instant::now() + MEMBER_LEASE + MEMBER_RENEWAL;
    loop {
        let made =
            backbone.create_with_ttl(&key, encode(&member)?, MEMBER_LEASE).await.map_err(unanswered)?;
        match made {
            CasOutcome::Stored(revision) => {
                let (backbone, is_ousted) = (backbone.clone(), Arc::default());
                return Ok(Membership { backbone, key, member, revision, is_ousted });
            }
            CasOutcome::Conflict(found) if Instant::now() >= patience => {
                tell_taken(backbone, &member).await;
                return Err(Problem::new(ErrorKind::InvalidSettings, taken(&member, found.as_ref())));
            }
            CasOutcome::Conflict(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

impl Membership {
    /// Renews the record, into which `state` writes each time how the worker is. With `draining`, says that nothing
    /// new is taken; after `gone`, removes it.
    pub async fn keep(
        mut self,
        state: impl Fn(&mut Member),
        draining: CancellationToken,
        gone: CancellationToken,
    ) {
        let (backbone, name) = (self.backbone.clone(), self.member.name.clone());
        let refused = tokio::spawn(tell_of_twins(backbone, name, Arc::clone(&self.is_ousted)));
        let _refused = AbortOnDropHandle::new(refused);
        let mut ticks = tokio::time::interval(MEMBER_RENEWAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let told = Seldom::new();
        loop {
            tokio::select! {
                biased;
                () = gone.cancelled() => break,
                () = draining.cancelled(), if !self.member.draining => self.member.draining = true,
                _ = ticks.tick() => {}
            }
            state(&mut self.member);
            if let Err(problem) = self.renew().await
                && told.is_due(problem.code.code())
            {
                tracing::warn!(worker = %self.member.name, detail = %problem.detail, "the worker's record is not renewed; this is tried again");
            }
        }
        if let Err(error) = self.backbone.delete(&self.key, Some(self.revision)).await {
            tracing::debug!(%error, "the worker's record stays until it lapses");
        }
    }

    async fn renew(&mut self) -> Result<(), Problem> {
        let value = encode(&self.member)?;
        let renewed = self.backbone.update_with_ttl(&self.key, value.clone(), self.revision, MEMBER_LEASE);
        let found = match renewed.await.map_err(unanswered)? {
            CasOutcome::Stored(revision) => {
                self.hold(revision);
                return Ok(());
            }
            CasOutcome::Conflict(found) => found,
        };
        match found {
            // Its answer was lost.
            Some(entry) if instance(&entry) == Some(self.member.instance) => {
                self.hold(entry.revision);
                Ok(())
            }
            Some(entry) => {
                // Once, and not at each try that follows.
                if !self.is_ousted.swap(true, Ordering::Relaxed) {
                    tell_taken(&self.backbone, &self.member).await;
                }
                Err(Problem::new(ErrorKind::InvalidSettings, taken(&self.member, Some(&entry))))
            }
            None => {
                let made = self.backbone.create_with_ttl(&self.key, value, MEMBER_LEASE);
                if let CasOutcome::Stored(revision) = made.await.map_err(unanswered)? {
                    tracing::info!(worker = %self.member.name, "the worker was not heard of for longer than its lease, and is back");
                    self.hold(revision);
                }
                Ok(())
            }
        }
    }

    fn hold(&mut self, revision: u64) {
        self.revision = revision;
        self.is_ousted.store(false, Ordering::Relaxed);
    }
}

/// Tells whoever has the name of a worker, and the gateways, that this one was refused it; nothing
/// depends on it.
async fn tell_taken(backbone: &Backbone, member: &Member) {
    let subject = keys::name_taken(&member.name);
    drop(backbone.publish(&subject, member.address.clone().into_bytes()).await);
}

/// Tells of workers that were refused because they have this one's name, for as long as it is this one's.
async fn tell_of_twins(backbone: Backbone, name: WorkerName, is_ousted: Arc<AtomicBool>) {
    let mut told = backbone.follow_subject(&keys::name_taken(&name));
    while let Some(event) = told.next().await {
        if let Event::Published { payload, .. } = event
            && !is_ousted.load(Ordering::Relaxed)
        {
            let at = String::from_utf8_lossy(&payload);
            tracing::warn!(worker = %name, %at, "another worker was refused: it has the name of this one");
        }
    }
}

fn encode(member: &Member) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(member).map_err(|error| crate::internal(error.to_string()))
}

fn instance(entry: &Entry) -> Option<uuid::Uuid> {
    serde_json::from_slice::<Member>(&entry.value).ok().map(|member| member.instance)
}

fn taken(member: &Member, found: Option<&Entry>) -> String {
    let other = found.and_then(|entry| serde_json::from_slice::<Member>(&entry.value).ok());
    let at = other.map_or_else(|| "elsewhere".to_owned(), |other| format!("at {}", other.address));
    format!(
        "expected the name {} to be free, found a worker of that name {at}; give each worker a name of its own",
        member.name
    )
}

fn unanswered(error: fanfold_backbone::Error) -> Problem {
    Problem::new(error.kind(), error.to_string())
}
