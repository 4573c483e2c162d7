// SPDX-License-Identifier: Apache-2.0
//! Jobs: from a document to tables and answers, whatever is killed meanwhile.
//!
//! ```text
//!  plan: submit ─> input ─> split ─> pack ─> layout
//!                                              │  plan
//!                                              v
//!  coordinate: recover ─> coordinator ──> lease ─> queue ~> workers
//!                            │  ^  progress                   │
//!                            │  └────────── commits <─────────┘
//!                            v
//!  end: finish ─> manifest, result, outcome;  sweep;  expiry
//! ```
//!
//! The truth of a job is its plan and its commits in the store. Everything in
//! the backbone and in memory here is made from them and can be made again.
//!
//! A folder each for what makes a plan (`plan`), what earlier jobs did of it (`reuse`), how
//! far it is (`progress`), who looks after it (`coordinate`), what becomes of it (`end`) and
//! what is seen of it (`api`). They look one way, each at those behind it: `api`, `coordinate`,
//! `end`, then `plan` and `reuse`, which look at each other, and `progress`. What goes back, as an
//! accepted job to whoever coordinates it, goes through this handle, [`Jobs`]. Beside it stands what
//! all of them share: errors, and what is written down in store and backbone.

mod api;
mod case;
mod claim;
mod coordinate;
mod end;
mod ending;
mod error;
mod failures;
mod index;
mod manifest;
mod plan;
mod prints;
mod progress;
mod record;
mod reuse;
mod vault;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use bytes::Bytes;
use fanfold_backbone::{Backbone, CasOutcome};
use fanfold_protocol::{
    ErrorKind, Problem,
    commit::Manifest,
    job::{Job, JobState},
    keys, limits,
    tenant::Tenant,
    uri::ObjectUri,
};
use fanfold_storage::Store;
use futures::StreamExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub(crate) use api::routes::job_id;
pub use api::{
    routes::routes,
    tasks::{TaskPage, TaskState, TaskView},
};
pub use coordinate::counters::Counters;
pub use index::Filter;
pub(crate) use plan::shape::shape;
pub use record::{JobRecord, TaskFailure};
pub use reuse::compare::{Change, Comparison, Differing};

use self::{
    api::tasks,
    coordinate::{live::Live, recover},
    end::{finish, sweep::Sweep},
    error::{Error, Result},
    index::Index,
    plan::{
        planning::{Plannings, WAIT_MAX},
        split::Splitter,
    },
    vault::Vault,
};
use crate::functions::Registry;

/// How jobs are looked after. The defaults suit production; tests are hastier.
#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// How long a job stays with a coordinator that does not renew.
    pub tenure: Duration,
    /// Between two looks for jobs that nobody coordinates.
    pub scan: Duration,
    /// Between two looks for accepted jobs whose gateway was killed before it showed them.
    pub unshown: Duration,
    /// Between two changes of a running job's record.
    pub flush: Duration,
    /// How long a job may be quiet before its commits are looked for.
    pub watchdog: Duration,
    /// How long nobody may tell of any lease of a job before its leases count as lost.
    pub lost: Duration,
    /// Jobs of a tenant that may be queued or running.
    pub unfinished_max: usize,
    /// How long a request waits for its turn at being planned, and for what comes before.
    pub planning_wait: Duration,
    /// How long a lease may take in any case before it is begun a second time.
    pub straggle: Duration,
    /// After a job was stopped, until what its tasks staged meanwhile is swept.
    pub late_sweep: Duration,
    /// After a job was stopped, until what was committed all the same is swept: no attempt can run any more.
    pub last_sweep: Duration,
    /// How long a job may serve the tasks of others after it has ended, and how long
    /// one that failed keeps what a retry takes over.
    pub cache_window: Duration,
    /// How long what is written down of a job stays after it has ended.
    pub retention: Duration,
    /// How old the parts of a plan are when nobody can be planning the job any more.
    pub unaccepted: Duration,
    /// How long a job is left to other gateways of which a newer release wrote what is not known here.
    pub left: Duration,
    /// Whether commits are taken as the bus brings them, if only this process speaks
    /// there; those that others may have sent are read from the store in any case.
    pub believes_bus: bool,
}

impl Default for JobsConfig {
    fn default() -> Self {
        Self {
            tenure: Duration::from_secs(4),
            scan: Duration::from_millis(500),
            unshown: Duration::from_secs(60),
            flush: Duration::from_millis(500),
            watchdog: Duration::from_secs(2),
            lost: Duration::from_secs(300),
            unfinished_max: limits::JOBS_UNFINISHED_MAX,
            planning_wait: WAIT_MAX,
            straggle: limits::SPECULATION_AFTER_MIN,
            late_sweep: Duration::from_secs(3),
            last_sweep: 2 * limits::TIMEOUT_MAX,
            cache_window: limits::CACHE_WINDOW,
            retention: limits::JOB_RETENTION_DEFAULT,
            unaccepted: limits::UNACCEPTED_WINDOW,
            left: Duration::from_secs(30),
            believes_bus: true,
        }
    }
}

/// The handle of the job engine; clones share everything.
#[derive(Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

struct Inner {
    /// Whose jobs they are.
    tenant: Arc<Tenant>,
    vault: Vault,
    backbone: Backbone,
    registry: Registry,
    config: JobsConfig,
    shutdown: CancellationToken,
    /// Names this engine in tenures.
    holder: String,
    index: Index,
    /// Cancelled once the unfinished jobs of the store have their records and claims.
    restored: CancellationToken,
    plannings: Plannings,
    /// Jobs coordinated here; without a progress while it is being read.
    running: Mutex<HashMap<Uuid, Option<Arc<Live>>>>,
    /// The bytes of the leases of these jobs that are queued and not committed.
    queued: Arc<AtomicUsize>,
    tables: tasks::Cache,
    splitter: Splitter,
    counters: Counters,
    tracker: TaskTracker,
}

impl Jobs {
    /// Starts the engine: reads the records, then looks after unfinished jobs
    /// until `shutdown`.
    ///
    /// # Errors
    /// When the backbone does not answer.
    pub async fn start(
        store: Store,
        tenant: Arc<Tenant>,
        backbone: Backbone,
        registry: Registry,
        config: JobsConfig,
        shutdown: CancellationToken,
    ) -> Result<Self, Problem> {
        let inner = Arc::new(Inner {
            splitter: Splitter::new(store.clone()),
            vault: Vault::new(store, tenant.system_bucket.clone()),
            tenant,
            backbone,
            registry,
            shutdown,
            holder: Uuid::now_v7().to_string(),
            index: Index::default(),
            restored: CancellationToken::new(),
            plannings: Plannings::within(config.planning_wait),
            config,
            running: Mutex::default(),
            queued: Arc::default(),
            tables: tasks::Cache::default(),
            counters: Counters::default(),
            tracker: TaskTracker::new(),
        });
        let jobs = Self { inner };
        // Workers may not make what they pull leases through.
        jobs.inner.backbone.keep_queue(keys::TASK_QUEUE).await.map_err(crate::problem::of_backbone)?;
        jobs.load_index().await.map_err(Problem::from)?;
        jobs.spawn(jobs.clone().follow());
        jobs.spawn(jobs.clone().look_after());
        jobs.spawn(jobs.clone().bury());
        jobs.spawn(jobs.clone().forget_old());
        Ok(jobs)
    }

    /// Waits until everything that was running here has stopped, after `shutdown`.
    pub async fn stopped(&self) {
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
    }

    /// What is counted of the jobs coordinated here.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// What is known of a job.
    ///
    /// # Errors
    /// `job-not-found`; or the store or backbone does not answer.
    pub async fn get(&self, id: &Uuid) -> Result<JobRecord, Problem> {
        self.find(id).await?.ok_or_else(|| unknown(id))
    }

    /// At most `limit` jobs, newest first, from before `before`; and the last one
    /// looked at, when there are more. It may be none of those, for what cannot be read is left out.
    ///
    /// # Errors
    /// When the store or the backbone does not answer.
    pub async fn list(
        &self,
        filter: &Filter,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<(Vec<JobRecord>, Option<Uuid>), Problem> {
        let (ids, next) = self.inner.index.page(filter, before, limit);
        let mut records = Vec::with_capacity(ids.len());
        for id in ids {
            match self.find(&id).await {
                Err(error) if error.is_newer() => {
                    tracing::warn!(job = %id, %error, "a job is left out of a list");
                }
                // It may have moved on since it was taken into the index.
                found => records.extend(found?.filter(|record| filter.takes(record.state))),
            }
        }
        Ok((records, next))
    }

    /// Asks that a job ends now. Answers its record as it is soon after: ended,
    /// unless the store is slow.
    ///
    /// # Errors
    /// `job-not-found`; `job-finished` when it has ended otherwise, or is about to.
    pub async fn cancel(&self, id: &Uuid) -> Result<JobRecord, Problem> {
        // Dropping this future half-way must not leave what it has decided to nobody.
        let (jobs, id) = (self.clone(), *id);
        match tokio::spawn(async move { jobs.cancel_once(&id).await }).await {
            Ok(result) => result,
            Err(error) => Err(crate::problem::internal(error)),
        }
    }

    async fn cancel_once(&self, id: &Uuid) -> Result<JobRecord, Problem> {
        let record = self.get(id).await?;
        let decided = match record.state {
            JobState::Queued | JobState::Running => {
                let why = Problem::new(
                    ErrorKind::Cancelled,
                    "the job was cancelled on request; submit it again to run it",
                );
                ending::decide(&self.inner.vault, id, JobState::Cancelled, Some(why)).await?.state
            }
            ended => ended,
        };
        if decided != JobState::Cancelled || record.state.is_terminal() {
            let state = decided.as_str();
            return Err(Problem::new(
                ErrorKind::JobFinished,
                format!(
                    "expected job {id} to be queued or running, found it {state}; there is nothing to cancel"
                ),
            ));
        }
        finish::stop_tasks(&self.inner.backbone, id).await?;
        // It begins with the record as it is.
        let mut watch = self.inner.backbone.watch(&keys::job_record(id)).await.map_err(Error::from)?;
        let ended = async {
            while let Some(change) = watch.next().await {
                if let Some(record) = recover::of_change(&change)
                    && record.state.is_terminal()
                {
                    return Some(record);
                }
            }
            None
        };
        match tokio::time::timeout(CANCEL_WAIT, ended).await {
            Ok(Some(record)) => Ok(record),
            Ok(None) | Err(_) => self.get(id).await,
        }
    }

    /// The result of an aggregate that succeeded: JSON.
    ///
    /// # Errors
    /// `job-not-found`; `object-not-found` for a map, which has none;
    /// `job-not-finished`; `job-finished` when it did not succeed.
    pub async fn result(&self, id: &Uuid) -> Result<Bytes, Problem> {
        let record = self.published(id).await?;
        if record.result_uri.is_none() {
            return Err(Problem::new(
                ErrorKind::ObjectNotFound,
                format!(
                    "expected job {id} to be an aggregate, found a map, which has tables; see /v1/jobs/{id}/manifest"
                ),
            ));
        }
        let key = keys::result(id);
        let bytes = self.inner.vault.bytes(&key).await?;
        Ok(bytes.ok_or_else(|| Error::damaged(key, "no such object"))?)
    }

    /// The manifest of a job that succeeded.
    ///
    /// # Errors
    /// `job-not-found`; `job-not-finished`; `job-finished` when it did not
    /// succeed; `object-not-found` when the manifest was removed or replaced.
    pub async fn manifest(&self, id: &Uuid) -> Result<Manifest, Problem> {
        Ok(self.stored_manifest(id, |manifest| manifest).await?.1)
    }

    /// The same as it is stored: JSON.
    ///
    /// # Errors
    /// As of [`Jobs::manifest`].
    pub async fn manifest_text(&self, id: &Uuid) -> Result<Bytes, Problem> {
        Ok(self.stored_manifest(id, drop).await?.0)
    }

    async fn stored_manifest<T: Send + 'static>(
        &self,
        id: &Uuid,
        take: impl FnOnce(Manifest) -> T + Send + 'static,
    ) -> Result<(Bytes, T), Problem> {
        let record = self.published(id).await?;
        let uri = record
            .manifest
            .ok_or_else(|| crate::problem::internal("a job that succeeded without a manifest"))?;
        let bytes = self.inner.vault.store().get(&uri, None).await.map_err(error::about_input)?;
        let job = *id;
        let own = move |found: serde_json::Result<Manifest>| {
            found.ok().filter(|manifest| manifest.job == job).map(take)
        };
        let taken = manifest::parsed(&bytes, own).await?.ok_or_else(|| {
            Problem::new(
                ErrorKind::ObjectNotFound,
                format!(
                    "expected the manifest of job {id} at {uri}, found that it was replaced; run the job again"
                ),
            )
        })?;
        Ok((bytes, taken))
    }

    /// The record of a job that has output.
    async fn published(&self, id: &Uuid) -> Result<JobRecord, Problem> {
        let record = self.succeeded(id).await?;
        if record.estimate.is_none() {
            return Ok(record);
        }
        Err(Problem::new(
            ErrorKind::ObjectNotFound,
            format!(
                "expected job {id} to have output, found an estimate, whose output is thrown away; submit the job \
                 itself"
            ),
        ))
    }

    async fn succeeded(&self, id: &Uuid) -> Result<JobRecord, Problem> {
        let record = self.get(id).await?;
        match record.state {
            JobState::Succeeded => Ok(record),
            JobState::Queued | JobState::Running => Err(Problem::new(
                ErrorKind::JobNotFinished,
                format!("expected job {id} to have ended, found it {}; wait for it", record.state.as_str()),
            )),
            JobState::Failed | JobState::Cancelled => {
                let why = record
                    .problem
                    .map_or(String::new(), |problem| format!(": {}: {}", problem.code, problem.detail));
                Err(Problem::new(
                    ErrorKind::JobFinished,
                    format!("expected job {id} to have succeeded, found it {}{why}", record.state.as_str()),
                ))
            }
        }
    }

    /// The record of a job, from the backbone or made from the store; of one that
    /// has ended, the store is enough.
    async fn find(&self, id: &Uuid) -> Result<Option<JobRecord>> {
        match self.inner.backbone.get(&keys::job_record(id)).await {
            Ok(Some(entry)) => match serde_json::from_slice(&entry.value) {
                Ok(record) => Ok(Some(record)),
                Err(_) => case::restore(self, id).await,
            },
            Ok(None) => case::restore(self, id).await,
            Err(error) => match case::restore(self, id).await {
                Ok(Some(record)) if record.state.is_terminal() => Ok(Some(record)),
                _ => Err(error.into()),
            },
        }
    }

    /// Shows a job of which the backbone has no record.
    async fn note_new(&self, record: &JobRecord) -> Result<()> {
        let key = keys::job_record(&record.id);
        let value = serde_json::to_vec(record).map_err(|e| Error::damaged(&key, e))?;
        if let CasOutcome::Stored(_) = self.inner.backbone.create(&key, value).await? {
            self.inner.index.note(record);
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Uuid, Option<Arc<Live>>>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets others in this process see a running job's progress.
    fn publish_live(&self, id: Uuid, live: Arc<Live>) {
        self.running().insert(id, Some(live));
    }

    /// Sweeps once more after a job that was stopped, for what its tasks staged
    /// before they heard of it.
    fn sweep_later(&self, job: Job, output: ObjectUri) {
        let jobs = self.clone();
        self.spawn(async move {
            tokio::time::sleep(jobs.inner.config.late_sweep).await;
            let sweep = Sweep { output: &output, job: &job, committed: false };
            if let Err(error) = jobs.sweep_again(sweep).await {
                tracing::warn!(job = %job.id, %error, "what was staged late stays behind");
            }
        });
    }

    async fn sweep_again(&self, sweep: Sweep<'_>) -> Result<()> {
        let (Sweep { job, output, .. }, inner) = (&sweep, &self.inner);
        let claimed = job.document.output.is_some();
        if claimed && !claim::ensure(&inner.backbone, output, job).await? {
            return Ok(());
        }
        let swept = sweep.losers(&inner.vault, &inner.backbone).await;
        if claimed {
            claim::release(&inner.backbone, output, job.id).await?;
        }
        swept.map(|_| ())
    }

    /// Runs until it is done or the engine stops.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.inner.shutdown.clone();
        self.inner.tracker.spawn(async move {
            shutdown.run_until_cancelled(work).await;
        });
    }
}

/// How long a cancellation waits for the job to end, which may listen for a second to what its attempts took.
const CANCEL_WAIT: Duration = Duration::from_secs(3);

fn unknown(id: &Uuid) -> Problem {
    Problem::new(
        ErrorKind::JobNotFound,
        format!("expected a job with the id {id}, found none; see `fanfold job ls`"),
    )
}
