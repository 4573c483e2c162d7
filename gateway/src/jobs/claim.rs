// SPDX-License-Identifier: Apache-2.0
//! One writer for each output prefix, and ([`Key`]) one job for each idempotency key.
//!
//! Both are records in the backbone under compare-and-set. A claim is made
//! before planning, so that what lies under a prefix and in no manifest can be
//! swept without asking whose it is. Where the backbone has lost claims, the jobs in
//! the store have theirs again before others are accepted, and a job that comes too
//! late for its own ends: of two jobs under one prefix, each would sweep what the other wrote.

mod key;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use fanfold_backbone::{Backbone, CasOutcome, Entry};
use fanfold_protocol::{
    ErrorKind, Problem,
    digest::Digest,
    job::{Format, Job},
    keys,
    uri::ObjectUri,
};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::key::Key;
use super::{
    error::{Error, Result},
    record::JobRecord,
};

/// A claim of a job that is still being planned; renewed meanwhile, and before
/// the job is accepted.
const PLANNING: Duration = Duration::from_secs(60);
/// How often a claim is renewed while planning goes on.
pub const RENEWAL: Duration = Duration::from_secs(20);
/// How often and after which pause a prefix is asked for again that is taken:
/// whoever sweeps after a job has it for a moment.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(200);
/// Where a job that is accepted stands among the claims: before all others.
const ACCEPTED: u64 = 0;
/// Records of jobs that are looked at at once.
const RECORDS_AT_ONCE: usize = 16;

/// Who writes under a prefix.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    job: Uuid,
    /// The idempotency key that the job was submitted under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Digest>,
    /// The prefix. An earlier release did not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<ObjectUri>,
    /// What the job writes there. An earlier release did not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output_format: Option<Format>,
    /// Where the claim stands among all: the revision that it was made with, which renewals keep, or
    /// [`ACCEPTED`]. Whoever reads the claims after the own is made meets all that stand before it.
    /// The ids of jobs tell less: they are given before, by clocks that differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
}

impl Holder {
    fn new(job: &Job, key: Option<Digest>, output: &ObjectUri) -> Self {
        let output_format = Some(job.document.output_format);
        Self { job: job.id, key, output: Some(output.clone()), output_format, since: None }
    }

    /// Of a job that has its plan.
    fn accepted(job: &Job, output: &ObjectUri) -> Self {
        Self { since: Some(ACCEPTED), ..Self::new(job, None, output) }
    }
}

/// The right to write under a prefix.
pub struct Claim {
    backbone: Backbone,
    key: String,
    holder: Holder,
    revision: u64,
}

impl Claim {
    /// Claims a prefix for a job that is about to be planned.
    ///
    /// # Errors
    /// `output-exists` when another job is writing there.
    pub async fn take(
        backbone: &Backbone,
        output: &ObjectUri,
        job: &Job,
        key: Option<Digest>,
    ) -> Result<Self> {
        let mut holder = Holder::new(job, key, output);
        let name = name(output);
        let mut tries = 0;
        loop {
            holder.since = None;
            let other = match backbone.create_with_ttl(&name, json(&holder)?, PLANNING).await? {
                CasOutcome::Stored(revision) => return Ok(Self::made(backbone, name, holder, revision)),
                CasOutcome::Conflict(None) => continue,
                CasOutcome::Conflict(Some(entry)) => entry,
            };
            let found = read(&other);
            if may_pass(backbone, found.as_ref(), &holder).await? {
                // The try before may be accepted yet, and may have been met by others already.
                let same_request = found.as_ref().filter(|found| is_same_request(found, &holder));
                holder.since = same_request.and_then(|found| found.since);
                if let CasOutcome::Stored(revision) =
                    backbone.update_with_ttl(&name, json(&holder)?, other.revision, PLANNING).await?
                {
                    return Ok(Self::made(backbone, name, holder, revision));
                }
            }
            tries += 1;
            if tries == TRIES {
                return Err(taken(output, found.map(|f| f.job)).into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn made(backbone: &Backbone, key: String, mut holder: Holder, revision: u64) -> Self {
        holder.since.get_or_insert(revision);
        Self { backbone: backbone.clone(), key, holder, revision }
    }

    /// Where it stands among all, for [`Writers::check_apart`].
    pub fn since(&self) -> u64 {
        self.holder.since.unwrap_or(self.revision)
    }

    /// Holds the prefix for another while of planning; answers whether it was
    /// still held.
    pub async fn renew(&mut self) -> Result<bool> {
        let value = json(&self.holder)?;
        match self.backbone.update_with_ttl(&self.key, value, self.revision, PLANNING).await? {
            CasOutcome::Stored(revision) => self.revision = revision,
            CasOutcome::Conflict(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Holds the prefix until the job ends, also when another try of the same request has
    /// taken it over meanwhile: that one is not accepted any more. Should this fail, the
    /// coordinator makes up for it.
    pub async fn keep(mut self) {
        self.holder.since = Some(ACCEPTED);
        let kept = async {
            let (value, mut revision) = (json(&self.holder)?, self.revision);
            while let CasOutcome::Conflict(Some(entry)) =
                self.backbone.update(&self.key, value.clone(), revision).await?
                && read(&entry).is_some_and(|found| is_same_request(&found, &self.holder))
            {
                revision = entry.revision;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = kept.await {
            tracing::warn!(job = %self.holder.job, %error, "the claim of an accepted job is not kept yet");
        }
    }

    /// Gives the prefix back before the job was accepted.
    pub async fn drop_now(self) {
        if let Err(error) = self.backbone.delete(&self.key, Some(self.revision)).await {
            tracing::debug!(%error, "a claim lapses by itself");
        }
    }
}

/// Makes sure that an accepted job holds the place of its output, which is free, its own
/// already, or that of a job that has ended.
///
/// # Errors
/// `output-exists` when another job is writing there.
pub async fn hold(backbone: &Backbone, job: &Job, output: &ObjectUri) -> Result<()> {
    // The platform's own place needs no claim: its name is the job's.
    if job.document.output.is_none() {
        return Ok(());
    }
    let (name, holder) = (name(output), Holder::accepted(job, output));
    loop {
        let entry = match backbone.create(&name, json(&holder)?).await? {
            CasOutcome::Stored(_) => return Ok(()),
            CasOutcome::Conflict(None) => continue,
            CasOutcome::Conflict(Some(entry)) => entry,
        };
        let found = read(&entry);
        if !may_pass(backbone, found.as_ref(), &holder).await? {
            return Err(taken(output, found.map(|found| found.job)).into());
        }
        // Also when it is its own: that of the planning would lapse.
        if backbone.update(&name, json(&holder)?, entry.revision).await?.is_stored() {
            return Ok(());
        }
    }
}

/// Makes sure that a job holds its prefix, as far as nobody does; answers whether it does.
pub async fn ensure(backbone: &Backbone, output: &ObjectUri, job: &Job) -> Result<bool> {
    let holder = Holder::accepted(job, output);
    Ok(match backbone.create(&name(output), json(&holder)?).await? {
        CasOutcome::Stored(_) => true,
        // It may be the claim of the planning still, which would lapse.
        CasOutcome::Conflict(Some(entry)) if holds(&entry, job.id) => {
            backbone.update(&name(output), json(&holder)?, entry.revision).await?.is_stored()
        }
        CasOutcome::Conflict(_) => false,
    })
}

/// Whether a job holds its prefix at this moment.
pub async fn held(backbone: &Backbone, output: &ObjectUri, job: Uuid) -> Result<bool> {
    Ok(backbone.get(&name(output)).await?.is_some_and(|entry| holds(&entry, job)))
}

/// Whether a place is one that is asked for, given what is written there, if that is known.
pub type Fits<'a> = dyn Fn(&ObjectUri, Option<Format>) -> bool + Sync + 'a;

/// Who writes where at one moment: what one listing of the claims shows.
pub struct Writers<'a> {
    backbone: &'a Backbone,
    /// By the names of their claims.
    holders: HashMap<String, Holder>,
}

impl<'a> Writers<'a> {
    /// Those of this moment.
    pub async fn now(backbone: &'a Backbone) -> Result<Self> {
        let claims = backbone.list(keys::OUTPUT_CLAIMS).await?.into_iter();
        let holders = claims.filter_map(|(name, entry)| Some((name, read(&entry)?))).collect();
        Ok(Self { backbone, holders })
    }

    /// The places that fit, in order, and the jobs that are writing there.
    pub async fn at(&self, fits: &Fits<'_>) -> Result<BTreeMap<ObjectUri, Uuid>> {
        Ok(self.writing(fits).await?.into_iter().map(|found| (found.place, found.job)).collect())
    }

    async fn writing(&self, fits: &Fits<'_>) -> Result<Vec<Writing>> {
        let fitting = self.holders.values().filter(|holder| {
            let place = holder.output.as_ref();
            place.is_none_or(|place| fits(place, holder.output_format))
        });
        let looks: Vec<_> = fitting.map(|holder| self.of(holder)).collect();
        let found = stream::iter(looks).buffer_unordered(RECORDS_AT_ONCE).try_collect::<Vec<_>>().await?;
        Ok(found.into_iter().flatten().filter(|found| fits(&found.place, found.format)).collect())
    }

    /// What a holder writes, unless its job has ended. One that has a claim and no record is being
    /// planned.
    async fn of(&self, holder: &Holder) -> Result<Option<Writing>> {
        let record = record(self.backbone, holder.job).await?;
        if record.as_ref().is_some_and(|record| record.state.is_terminal()) {
            return Ok(None);
        }
        let since = if record.is_some() { ACCEPTED } else { holder.since.unwrap_or(ACCEPTED) };
        let place = holder.output.clone().or(record.map(|record| record.output));
        Ok(place.map(|place| Writing { place, job: holder.job, format: holder.output_format, since }))
    }

    /// Refuses to write above or below a place that another job is writing to, for as long as it does.
    /// Of two that are being planned, the one whose claim was made later gives way; `since` is
    /// that of the own.
    ///
    /// # Errors
    /// `job-not-finished` with the place and the job.
    pub async fn check_apart(&self, output: &ObjectUri, since: u64) -> Result<()> {
        let meets = |place: &ObjectUri| place.is_under(output) || output.is_under(place);
        let around = |place: &ObjectUri, _: Option<Format>| place != output && meets(place);
        let before = self.writing(&around).await?.into_iter().filter(|other| other.since <= since);
        let first = before.min_by(|one, other| one.place.cmp(&other.place));
        let Some(Writing { place, job, .. }) = first else { return Ok(()) };
        Err(Error::Refused(Problem::new(
            ErrorKind::JobNotFinished,
            format!(
                "expected {output} to lie apart from what other jobs are writing, found job {job} writing to {place}; submit \
                 again when it has ended, or choose another output prefix"
            ),
        )))
    }
}

/// What a job that has not ended writes.
struct Writing {
    place: ObjectUri,
    job: Uuid,
    format: Option<Format>,
    /// Where it stands among all.
    since: u64,
}

/// The job that is writing to its place in the platform's own bucket, which is not claimed, if
/// that is where this lies.
pub async fn own_writer(backbone: &Backbone, at: &ObjectUri) -> Result<Option<Uuid>> {
    let Some(job) = owner(at) else { return Ok(None) };
    let record = record(backbone, job).await?;
    Ok(record.filter(|record| !record.state.is_terminal()).map(|_| job))
}

/// Why what a job is still writing is not read.
pub fn unsettled(place: &ObjectUri, job: Uuid) -> Problem {
    Problem::new(
        ErrorKind::JobNotFinished,
        format!(
            "expected what lies under {place} to be of jobs that have ended, found that job {job} is writing there; wait \
             for it and submit this one again, or leave the folder out"
        ),
    )
}

/// Refuses to read from folders that a job is writing to: what lies there may be of
/// attempts that will not count.
///
/// # Errors
/// `job-not-finished` with the folder and the job.
pub async fn check_idle(
    backbone: &Backbone,
    system_bucket: &str,
    folders: &BTreeSet<ObjectUri>,
) -> Result<()> {
    if folders.is_empty() {
        return Ok(());
    }
    let writers = Writers::now(backbone).await?;
    for folder in folders {
        let holder = writers.holders.get(&name(folder));
        let claimed = holder.is_some();
        // The platform's own place is not claimed.
        let own = || owner(folder).filter(|_| folder.bucket() == system_bucket);
        let Some(job) = holder.map(|holder| holder.job).or_else(own) else { continue };
        // One that has a claim and no record is being planned.
        if record(backbone, job).await?.map_or(claimed, |record| !record.state.is_terminal()) {
            return Err(unsettled(folder, job).into());
        }
    }
    Ok(())
}

/// The job in whose output this lies, if it is of the platform's own bucket.
fn owner(at: &ObjectUri) -> Option<Uuid> {
    let id = at.key().strip_prefix(keys::JOBS)?.split('/').next()?.parse().ok()?;
    at.key().starts_with(&keys::default_output(&id)).then_some(id)
}

async fn record(backbone: &Backbone, job: Uuid) -> Result<Option<JobRecord>> {
    let entry = backbone.get(&keys::job_record(&job)).await?;
    Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()))
}

/// Gives back what a job held.
pub async fn release(backbone: &Backbone, output: &ObjectUri, job: Uuid) -> Result<()> {
    let name = name(output);
    if let Some(entry) = backbone.get(&name).await?
        && holds(&entry, job)
    {
        backbone.delete(&name, Some(entry.revision)).await?;
    }
    Ok(())
}

/// Gives back what a job claimed, if it names a place for its output.
pub async fn release_of(backbone: &Backbone, job: &Job, output: &ObjectUri) -> Result<()> {
    if job.document.output.is_some() { release(backbone, output, job.id).await } else { Ok(()) }
}

fn read(entry: &Entry) -> Option<Holder> {
    let mut holder: Holder = serde_json::from_slice(&entry.value).ok()?;
    holder.since.get_or_insert(entry.revision);
    Some(holder)
}

fn holds(entry: &Entry, job: Uuid) -> bool {
    read(entry).is_some_and(|holder| holder.job == job)
}

/// Whether both are of one job, or of tries of one request.
fn is_same_request(found: &Holder, own: &Holder) -> bool {
    found.job == own.job || found.key.is_some() && found.key == own.key
}

/// Whether a claim may be taken over: it cannot be read, belongs to an earlier
/// try of the same request that was not accepted, or to a job that has ended.
async fn may_pass(backbone: &Backbone, found: Option<&Holder>, own: &Holder) -> Result<bool> {
    let Some(found) = found else { return Ok(true) };
    if found.job == own.job {
        return Ok(true);
    }
    let same_request = is_same_request(found, own) && found.since != Some(ACCEPTED);
    Ok(record(backbone, found.job).await?.map_or(same_request, |record| record.state.is_terminal()))
}

fn name(output: &ObjectUri) -> String {
    keys::output_claim(&Digest::of(output.to_string().as_bytes()))
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::damaged("a record", e))
}

pub(super) fn taken(output: &ObjectUri, job: Option<Uuid>) -> Problem {
    let job = job.map_or("another job".to_owned(), |job| format!("job {job}"));
    Problem::new(
        ErrorKind::OutputExists,
        format!(
            "expected {output} to be free, found {job} writing there; wait for it, or choose another output prefix"
        ),
    )
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
