// SPDX-License-Identifier: Apache-2.0
//! From a document to an accepted job.
//!
//! Checks, resolves, plans and writes down; nothing is queued before the plan's
//! head is in the store, and nothing is answered either. Invariant: whatever
//! dies in between, a request under an idempotency key becomes one job.

use std::sync::Arc;

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::MANIFEST_NAME,
    function::{Column, Settings, Version},
    job::{Budget, Format, Job, JobDocument},
    keys, limits,
    names::{FunctionRef, Qualifier},
    plan::{Plan, Shape},
    time,
    tolerance::Tolerance,
    uri::ObjectUri,
};
use uuid::Uuid;

use super::{
    carried::check_carried,
    filter,
    input::{self, Finder, Found},
    layout,
    pattern::Source,
    shape::{NOT_KEPT, shape_of},
};
use crate::jobs::{
    Jobs,
    claim::{self, Claim, Key, Writers},
    error::{Error, Result, about_input},
    record::JobRecord,
    reuse::{kept, retry::Earlier},
};

/// What a job is before it has a plan.
pub(super) struct Draft {
    /// As far as it is known.
    pub job: Job,
    /// The settings of its version.
    pub settings: Settings,
    /// What is done with the partitions.
    pub shape: Shape,
    /// Where its output goes.
    pub output: ObjectUri,
    /// What the author should know already.
    pub warnings: Vec<String>,
    /// The job that it runs again.
    pub earlier: Option<Earlier>,
    /// What its function declares to read.
    pub reads: Option<Vec<Column>>,
    /// What of it to run, when it only tells what all will take.
    pub sample: Option<Sampling>,
}

/// What an estimate runs of a job.
#[derive(Clone, Copy, Debug)]
pub(in crate::jobs) struct Sampling {
    /// Partitions.
    pub count: usize,
    /// Whether the job has an output.
    pub keep: bool,
}

fn job_of(id: Uuid, version: &Version, document: JobDocument) -> Job {
    let (version, digest) = (version.version, version.digest);
    Job { id, document, version, digest, submitted_at: time::now(), retry: None, cache: None, sample: None }
}

/// What a job is made from.
pub(in crate::jobs) enum Wanted {
    /// What somebody wrote.
    Document(Box<JobDocument>),
    /// A part of what somebody wrote, to tell what all of it takes.
    Sample(Box<JobDocument>, Sampling),
    /// A job that has ended, to be run again.
    Again(Uuid),
}

impl Jobs {
    /// Accepts a job: when this answers, its plan is in the store and it will
    /// come to an end. A key used before answers the job that it was used for.
    ///
    /// # Errors
    /// What is wrong with the document, its function, its input or its output.
    pub async fn submit(&self, document: JobDocument, key: Option<&str>) -> Result<JobRecord, Problem> {
        document.check()?;
        check_carried(&document)?;
        filter::check(&document)?;
        let key = key.map(|text| Key::new(text, &document)).transpose()?;
        self.accept(Wanted::Document(Box::new(document)), key).await
    }

    /// Makes a job of what is wanted.
    pub(in crate::jobs) async fn accept(
        &self,
        wanted: Wanted,
        key: Option<Key>,
    ) -> Result<JobRecord, Problem> {
        // Whoever goes away while this waits leaves nothing behind.
        let mut waiting = self.inner.plannings.arrive();
        let lock = match &key {
            Some(key) => Some(waiting.lock(key.digest).await?),
            None => None,
        };
        let given = self.given(key.as_ref()).await?;
        let place = if given.is_none() {
            let meets = self.meets(&wanted).await?;
            Some(self.place(waiting, meets).await?)
        } else {
            // Nothing is left to wait for, and others may need the seat.
            drop(waiting);
            None
        };
        // Dropping this future half-way must not strand what it has written.
        let jobs = self.clone();
        let accepted = tokio::spawn(async move {
            let _held = (lock, place);
            match given {
                Some(job) => jobs.complete(job, key.as_ref()).await,
                None => jobs.accept_new(wanted, key.as_ref()).await,
            }
        });
        match accepted.await {
            Ok(result) => result.map_err(Problem::from),
            Err(error) => Err(crate::problem::internal(error)),
        }
    }

    /// Runs `sample` partitions of what this job would be and tells from them what
    /// it would take. A job of its own, which leaves no output. A key used before answers the
    /// job that it was used for.
    ///
    /// # Errors
    /// What is wrong with the document, its function or its input; `invalid-request`
    /// when the sample is too small or too large; `idempotency-conflict`.
    pub async fn estimate(
        &self,
        mut document: JobDocument,
        sample: usize,
        key: Option<&str>,
    ) -> Result<JobRecord, Problem> {
        if !(1..=limits::SAMPLE_PARTITIONS_MAX).contains(&sample) {
            return Err(Problem::new(
                ErrorKind::InvalidRequest,
                format!(
                    "sample must be from 1 to {} partitions, found {sample}",
                    limits::SAMPLE_PARTITIONS_MAX
                ),
            ));
        }
        document.check()?;
        check_carried(&document)?;
        filter::check(&document)?;
        let key = key.map(|text| Key::new(text, &("estimate", sample, &document))).transpose()?;
        let sampling = Sampling { count: sample, keep: document.output.is_some() };
        // What it gives is thrown away, and what was done before tells nothing.
        (document.output, document.overwrite, document.cache) = (None, false, false);
        // A task that fails tells nothing of the others, and whether they keep within the budget is what is asked.
        (document.limits.tolerated_failures, document.budget) = (Tolerance::default(), Budget::default());
        self.accept(Wanted::Sample(Box::new(document), sampling), key).await
    }

    async fn accept_new(&self, wanted: Wanted, key: Option<&Key>) -> Result<JobRecord> {
        match self.draft_and_claim(wanted, key).await {
            Ok((draft, claim)) => Box::pin(self.lay_down(&draft, claim, key)).await,
            // What is in the way may be this very request, accepted meanwhile by another gateway.
            Err(refused) => match self.given(key).await? {
                Some(job) => self.complete(job, key).await,
                None => Err(refused),
            },
        }
    }

    /// The job that was submitted under this key before.
    async fn given(&self, key: Option<&Key>) -> Result<Option<Uuid>> {
        match key {
            Some(key) => key.find(&self.inner.backbone).await,
            None => Ok(None),
        }
    }

    async fn draft(&self, document: JobDocument) -> Result<Draft> {
        let version = self.inner.registry.resolve(&document.function).await?;
        let (shape, warnings) = shape_of(&version, &document)?;
        let reads = filter::reads(&version, shape);
        filter::check_chosen(&document, reads.as_deref())?;
        let id = Uuid::now_v7();
        let document = document.of_run(&id)?;
        let output = self.inner.vault.output_of(&document, &id)?;
        let job = job_of(id, &version, document);
        self.check_output(&job, &output).await?;
        let settings = version.settings.clone();
        Ok(Draft { job, settings, shape, output, warnings, earlier: None, reads, sample: None })
    }

    async fn draft_sample(&self, document: JobDocument, sampling: Sampling) -> Result<Draft> {
        let mut draft = self.draft(document).await?;
        draft.warnings.retain(|warning| !sampling.keep || warning != NOT_KEPT);
        draft.sample = Some(sampling);
        Ok(draft)
    }

    /// A job that runs an earlier one again, with the version that it ran.
    async fn draft_again(&self, id: &Uuid) -> Result<Draft> {
        let earlier = self.earlier(id).await?;
        let document = self.again(&earlier).await?;
        let version = self.version_of(&earlier.job).await?;
        let (id, shape, settings) = (Uuid::now_v7(), earlier.plan.shape, version.settings.clone());
        let output = self.inner.vault.output_of(&document, &id)?;
        let job = job_of(id, &version, document);
        self.check_output(&job, &output).await?;
        Ok(Draft {
            job,
            settings,
            shape,
            output,
            warnings: Vec::new(),
            earlier: Some(earlier),
            reads: filter::reads(&version, shape),
            sample: None,
        })
    }

    async fn check_output(&self, job: &Job, output: &ObjectUri) -> Result<(), Error> {
        if job.document.output.is_none() {
            return Ok(());
        }
        if output.bucket() == self.inner.vault.bucket() {
            return Err(Error::Refused(Problem::new(
                ErrorKind::AccessDenied,
                format!(
                    "output must lie outside the platform's own bucket, found {output}; choose another bucket"
                ),
            )));
        }
        let manifest = output.join(MANIFEST_NAME)?;
        match self.inner.vault.store().get(&manifest, None).await {
            Err(fanfold_storage::Error::NotFound { .. }) => Ok(()),
            Err(error) if !matches!(error, fanfold_storage::Error::TooLarge { .. }) => {
                Err(about_input(error))
            }
            _ if job.document.overwrite => Ok(()),
            _ => Err(Error::Refused(Problem::new(
                ErrorKind::OutputExists,
                format!(
                    "expected no manifest under {output}, found one; choose another prefix, or set overwrite = true to \
                     replace what is there"
                ),
            ))),
        }
    }

    async fn draft_and_claim(&self, wanted: Wanted, key: Option<&Key>) -> Result<(Draft, Option<Claim>)> {
        self.inner.backbone.check_room().await?;
        let draft = match wanted {
            Wanted::Document(document) => self.draft(*document).await?,
            Wanted::Sample(document, sampling) => self.draft_sample(*document, sampling).await?,
            Wanted::Again(id) => self.draft_again(&id).await?,
        };
        let claim = self.claim(&draft.job, &draft.output, key).await?;
        match self.check_claimed(&draft.job, &draft.output, claim.as_ref()).await {
            Ok(()) => Ok((draft, claim)),
            Err(refused) => Err(given_back(claim, refused).await),
        }
    }

    /// Looks at a claimed output once more: whoever had it, while the claim was waited for, may have
    /// left a manifest there.
    async fn check_claimed(&self, job: &Job, output: &ObjectUri, claim: Option<&Claim>) -> Result<()> {
        if claim.is_some() { self.check_output(job, output).await } else { Ok(()) }
    }

    /// Claims the output of a job, once it is known which other jobs have claims. The
    /// platform's own place needs none: its name is the job's.
    async fn claim(&self, job: &Job, output: &ObjectUri, key: Option<&Key>) -> Result<Option<Claim>> {
        if job.document.output.is_none() {
            return Ok(None);
        }
        self.restored().await?;
        let key = key.map(|key| key.digest);
        Claim::take(&self.inner.backbone, output, job, key).await.map(Some)
    }

    async fn lay_down(
        &self,
        draft: &Draft,
        mut claim: Option<Claim>,
        key: Option<&Key>,
    ) -> Result<JobRecord> {
        let planned = match self.plan(draft, claim.as_mut()).await {
            Ok(planned) => self.win(draft, claim.as_mut(), key).await.map(|winner| (planned, winner)),
            Err(error) => {
                self.clear(&draft.job.id).await;
                Err(error)
            }
        };
        let (job, plan) = match planned {
            Ok((planned, winner)) if winner == draft.job.id => planned,
            refused_or_second => {
                if let Some(claim) = claim {
                    claim.drop_now().await;
                }
                let (_, winner) = refused_or_second?;
                // Another gateway was first with this key; its job is the answer.
                self.clear(&draft.job.id).await;
                return self.complete(winner, key).await;
            }
        };
        self.begin(&job, &plan, draft.output.clone(), claim).await
    }

    /// Writes the head of a plan, with which the job exists.
    async fn begin(
        &self,
        job: &Job,
        plan: &Plan,
        output: ObjectUri,
        claim: Option<Claim>,
    ) -> Result<JobRecord> {
        layout::write_head(&self.inner.vault, plan).await?;
        if let Some(claim) = claim {
            claim.keep().await;
        }
        let record = JobRecord::new(job, plan, output);
        self.register(&record).await;
        Ok(record)
    }

    /// Plans, and keeps the claim meanwhile: large text takes its time. A claim
    /// that was lost all the same is noticed before the job is accepted.
    async fn plan(&self, draft: &Draft, mut claim: Option<&mut Claim>) -> Result<(Job, Plan)> {
        let since = claim.as_deref().map(Claim::since);
        let mut planned = Box::pin(self.lay_down_parts(draft, since));
        loop {
            tokio::select! {
                planned = &mut planned => return planned,
                () = tokio::time::sleep(claim::RENEWAL) => {
                    if let Some(claim) = claim.as_deref_mut()
                        && let Err(error) = claim.renew().await
                    {
                        tracing::warn!(job = %draft.job.id, %error, "the claim of a job being planned is not renewed");
                    }
                }
            }
        }
    }

    async fn lay_down_parts(&self, draft: &Draft, since: Option<u64>) -> Result<(Job, Plan)> {
        let found = self.look(&draft.job.document, &draft.output, since).await?;
        layout::lay_down(&self.inner.vault, &self.inner.splitter, draft, found).await
    }

    /// The objects that a document names, as they are now. `since` is that of the claim of its output,
    /// if there is one: then it is to lie apart from what other jobs are writing.
    pub(in crate::jobs) async fn look(
        &self,
        document: &JobDocument,
        output: &ObjectUri,
        since: Option<u64>,
    ) -> Result<Found> {
        let vault = &self.inner.vault;
        let tables = document.format != Format::Bytes;
        let output_format = document.output_format;
        let finder =
            Finder { store: vault.store(), tenant: &self.inner.tenant, output, output_format, tables };
        // Whoever begins to write after this is met among what is found.
        self.check_writers(&finder.sources(document.inputs())?, output, since).await?;
        let mut found = finder.find(document.inputs()).await?;
        if !found.loose.is_empty() {
            let (backbone, own) = (&self.inner.backbone, vault.bucket());
            claim::check_idle(backbone, own, &found.loose).await?;
            // A job that ended after it was listed has its manifest now.
            found = finder.find(document.inputs()).await?;
            claim::check_idle(backbone, own, &found.loose).await?;
            found.warnings.extend(input::loose(&found.loose));
        }
        Ok(found)
    }

    /// Refuses inputs among which may be what a job is writing, whether or not any of it is there
    /// yet, and a claimed output above or below that of another job.
    async fn check_writers(&self, sources: &[Source], output: &ObjectUri, since: Option<u64>) -> Result<()> {
        let listed = || sources.iter().filter(|source| source.is_listed());
        if since.is_none() && listed().next().is_none() {
            return Ok(());
        }
        self.restored().await?;
        let (backbone, vault) = (&self.inner.backbone, &self.inner.vault);
        let writers = Writers::now(backbone).await?;
        if let Some(since) = since {
            writers.check_apart(output, since).await?;
        }
        let may_list = |place: &ObjectUri, format: Option<Format>| {
            let written = input::may_be_written(format);
            place != output && sources.iter().any(|source| source.may_list(place, &written))
        };
        let mut writing = writers.at(&may_list).await?;
        let scopes: Vec<ObjectUri> = listed().map(Source::scope).collect();
        for scope in scopes.iter().filter(|scope| scope.bucket() == vault.bucket()) {
            if let Some(job) = claim::own_writer(backbone, scope).await? {
                writing.insert(vault.uri(&keys::default_output(&job))?, job);
            }
        }
        for (place, job) in writing {
            // Until a job that overwrites has ended, what is there is read through the manifest before.
            if kept::manifest_head(vault, &place).await?.is_none() {
                return Err(claim::unsettled(&place, job).into());
            }
        }
        Ok(())
    }

    /// The job that this request becomes. From here on nothing of the plan is
    /// removed when a step fails: the key may have been given all the same.
    async fn win(&self, draft: &Draft, claim: Option<&mut Claim>, key: Option<&Key>) -> Result<Uuid> {
        if let Some(claim) = claim
            && !claim.renew().await?
        {
            let taken = claim::taken(&draft.output, None);
            let Some(key) = key else { return Err(taken.into()) };
            // Whoever took it over was asked for the same, and will have the key.
            return key.wait(&self.inner.backbone).await?.ok_or_else(|| taken.into());
        }
        match key {
            Some(key) => key.give(&self.inner.backbone, draft.job.id).await,
            None => Ok(draft.job.id),
        }
    }

    async fn clear(&self, id: &Uuid) {
        if let Err(error) = self.inner.vault.clear(&keys::job(id)).await {
            tracing::warn!(job = %id, %error, "the parts of a plan that was given up stay behind");
        }
    }

    /// The job that an idempotency key was given to, its plan's head written if that is what
    /// whoever was first did not get to, and no other job has its output since.
    async fn complete(&self, id: Uuid, key: Option<&Key>) -> Result<JobRecord> {
        if let Some(record) = self.find(&id).await? {
            return Ok(record);
        }
        let vault = &self.inner.vault;
        let job: Job = vault.expect(&keys::job_document(&id)).await?;
        let plan: Plan = vault.expect(&keys::plan_draft(&id)).await?;
        let output = vault.output_of(&job.document, &id)?;
        let claim = self.claim(&job, &output, key).await?;
        let fits = match self.check_writers(&[], &output, claim.as_ref().map(Claim::since)).await {
            Ok(()) => self.check_claimed(&job, &output, claim.as_ref()).await,
            refused => refused,
        };
        let Err(refused) = fits else { return self.begin(&job, &plan, output, claim).await };
        let refused = given_back(claim, refused).await;
        // What lies there may be its own: another gateway has completed it meanwhile.
        self.find(&id).await?.ok_or(refused)
    }

    /// The version that a job was accepted with, also when the function was
    /// removed since: jobs end as they began.
    pub(in crate::jobs) async fn version_of(&self, job: &Job) -> Result<Arc<Version>> {
        let name = job.document.function.name.clone();
        let reference = FunctionRef { name, qualifier: Qualifier::Version(job.version) };
        match self.inner.registry.resolve(&reference).await {
            Err(problem) if !problem.retryable() => {
                let key = keys::version(&reference.name, job.version);
                Ok(Arc::new(self.inner.vault.read(&key).await?.ok_or(problem)?))
            }
            found => Ok(found?),
        }
    }

    /// Shows an accepted job and begins to work on it. The job exists whether
    /// or not this succeeds now: what is missing is made up for at the next look.
    async fn register(&self, record: &JobRecord) {
        let (noted, ()) = tokio::join!(self.note_new(record), self.adopt(record.id));
        if let Err(error) = noted {
            tracing::warn!(job = %record.id, %error, "an accepted job has no record yet");
            // Whoever looks for jobs that nobody coordinates finds it here.
            self.inner.index.note_unknown(record);
        }
    }
}

/// Why a job is not accepted, once the output that it had claimed is free again.
async fn given_back(claim: Option<Claim>, refused: Error) -> Error {
    if let Some(claim) = claim {
        claim.drop_now().await;
    }
    refused
}
