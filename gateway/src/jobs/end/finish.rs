// SPDX-License-Identifier: Apache-2.0
//! The end of a job: carried out once it is decided, then written down.
//!
//! What [`super::super::ending`] says has effects, each of which may be done twice:
//! publishing through one manifest, or sweeping what was staged. The outcome
//! comes last, so that a job with an outcome needs nothing any more.

mod read;
mod there;

use bytes::Bytes;
use fanfold_backbone::Backbone;
use fanfold_protocol::{
    ErrorKind, Problem,
    answer::Answer,
    commit::{AllFailed, AnswerRef, MANIFEST_NAME, Manifest, OutputObject, RESULT_NAME, SUCCESS_NAME},
    job::{Estimate, Job, JobOutcome, JobState, Receipt, TaskCounts},
    keys, limits,
    names::{FunctionRef, Qualifier},
    time::whole_ms,
    uri::ObjectUri,
};
use fanfold_storage::{PutOptions, PutOutcome};
use futures::TryStreamExt as _;
use uuid::Uuid;

pub use self::read::published;
use super::sweep::{self, Sweep};
use crate::jobs::{
    claim,
    ending::Ending,
    error::{Error, Result},
    manifest::{self, Failed},
    prints::{Fingerprint, Prints},
    progress::Progress,
    reuse::{cache, kept},
    vault::Vault,
};

/// How often a manifest is looked at again that others change meanwhile.
const TRIES_MAX: u32 = 16;

/// Tells workers that nothing of a job is wanted any more: those that run its
/// tasks, and those that will be given its leases.
pub async fn stop_tasks(backbone: &Backbone, id: &Uuid) -> Result<()> {
    let mark = id.to_string().into_bytes();
    backbone.put_with_ttl(&keys::job_cancel(id), mark.clone(), limits::IDEMPOTENCY_WINDOW).await?;
    Ok(backbone.publish(&keys::cancel_subject(id), mark).await?)
}

/// What a job's tasks have given, when nothing more will come.
pub struct Products {
    manifest: Manifest,
    answer: Option<AnswerRef>,
    /// Whether more is to be said of what failed than the manifest does.
    is_cut: bool,
    partitions: usize,
    tasks: TaskCounts,
    receipt: Receipt,
    /// Of a sample, of which nothing is published.
    estimate: Option<Estimate>,
}

impl Products {
    /// The products of a job as they stand, and what is said of the tasks that gave none.
    pub fn of(job: &Job, progress: &Progress, failed: Failed, estimate: Option<Estimate>) -> Self {
        let objects: Vec<_> = progress.tables().cloned().collect();
        let qualifier = Qualifier::Version(job.version);
        let manifest = Manifest {
            job: job.id,
            function: FunctionRef { name: job.document.function.name.clone(), qualifier },
            rows: objects.iter().map(|object| object.rows).sum(),
            bytes: objects.iter().map(|object| object.size).sum(),
            objects,
            shards: Vec::new(),
            failed: failed.first,
            all_failed: None,
        };
        let mut tasks = progress.counts();
        // What runs when a job ends was not finished by it.
        tasks.waiting += std::mem::take(&mut tasks.running);
        let (usage, attempts) = progress.usage();
        let (second_attempts, cache_hits) = (progress.second_attempts(), progress.taken_over());
        let receipt = Receipt { usage, attempts, second_attempts, cache_hits, elapsed_ms: 0 };
        let partitions = progress.stages().first().map_or(0, |stage| stage.tasks().len());
        let answer = progress.answer().cloned();
        Self { manifest, answer, is_cut: failed.is_cut, partitions, tasks, receipt, estimate }
    }

    /// The answer, when it is small.
    pub fn small_answer(&self) -> Option<Answer> {
        match &self.answer {
            Some(AnswerRef::Inline(answer)) => Some(answer.clone()),
            _ => None,
        }
    }
}

/// What came of a try to publish.
#[derive(Debug, PartialEq, Eq)]
enum Tried {
    /// The job's manifest is there, as it was to be.
    Published,
    /// It is there, and its shards are another coordinator's.
    PublishedElsewhere,
    /// The job has ended before.
    Ended,
    /// Another writer came between.
    Outrun,
    /// It is not to be there, and no manifest of the job is.
    Refused(Problem),
}

/// Carries out the ending of one job.
pub struct Closing<'a> {
    /// The platform's own objects.
    pub vault: &'a Vault,
    /// For telling workers.
    pub backbone: &'a Backbone,
    /// The job.
    pub job: &'a Job,
    /// Where its output goes.
    pub output: &'a ObjectUri,
}

impl Closing<'_> {
    /// Does what an ending asks for and writes the outcome. The outcome that is
    /// there first counts, and is answered.
    pub async fn carry_out(
        &self,
        ending: Ending,
        products: &Products,
        warnings: &[String],
    ) -> Result<JobOutcome> {
        let mut outcome = JobOutcome {
            state: ending.state,
            ended_at: ending.ended_at,
            problem: ending.problem,
            manifest: None,
            result_uri: None,
            tasks: products.tasks,
            receipt: products.receipt,
            estimate: None,
            warnings: warnings.to_vec(),
        };
        let elapsed = ending.ended_at.since(self.job.submitted_at);
        outcome.receipt.elapsed_ms = whole_ms(elapsed);
        if outcome.state == JobState::Succeeded && products.estimate.is_some() {
            outcome.estimate = products.estimate;
        } else if outcome.state == JobState::Succeeded {
            match self.publish(products).await {
                Ok(false) => return self.vault.expect(&keys::outcome(&self.job.id)).await,
                Ok(true) => {
                    outcome.warnings.extend(missing(products));
                    outcome.manifest = Some(self.output.join(MANIFEST_NAME)?);
                    outcome.result_uri =
                        products.answer.as_ref().map(|_| self.output.join(RESULT_NAME)).transpose()?;
                }
                Err(Error::Refused(problem)) if !problem.retryable() => {
                    outcome.state = JobState::Failed;
                    outcome.problem = Some(problem);
                }
                Err(error) => return Err(error),
            }
        }
        let succeeded = outcome.state == JobState::Succeeded;
        if !succeeded {
            stop_tasks(self.backbone, &self.job.id).await?;
        }
        if !succeeded && products.estimate.is_none() {
            kept::keep(self.vault, &self.job.id, &products.manifest.objects).await;
        }
        let following = async {
            match &outcome.manifest {
                Some(_) => self.follow(products).await,
                None => Ok(Vec::new()),
            }
        };
        // What committed nothing serves nobody, and would be in the way of those that do.
        let serves = products.tasks.done > 0;
        let marking = async { if serves { cache::mark(self.vault, self.job).await } else { Ok(()) } };
        let (followed, swept, marked) =
            tokio::join!(following, Box::pin(self.sweep(succeeded, serves)), marking);
        outcome.warnings.extend(followed?);
        swept?;
        if let Err(error) = marked {
            tracing::warn!(job = %self.job.id, %error, "the job serves no others");
        }
        let key = keys::outcome(&self.job.id);
        if self.vault.write_once(&key, &outcome).await? { Ok(outcome) } else { self.vault.expect(&key).await }
    }

    /// Makes the output visible: the answer first, where there is one, then the manifest that says
    /// that all is there. False when another coordinator has ended the job already.
    async fn publish(&self, products: &Products) -> Result<bool> {
        let store = self.vault.store();
        let uri = self.output.join(MANIFEST_NAME)?;
        let options = self.marked(PutOptions::typed("application/jsonl"));
        let mut head = manifest::lay_out(store, self.output, &products.manifest, &options).await?;
        if products.is_cut {
            let uri = self.vault.uri(&keys::dead_letters(&self.job.id))?;
            head.all_failed = Some(AllFailed { tasks: products.tasks.failed, uri });
        }
        let tried = match self.publish_head(&uri, &head, products).await {
            Err(Error::Refused(refusal)) => self.after_refusal(&uri, &head, refusal).await?,
            // After another failure its manifest may be there; what is not named then is swept.
            tried => tried?,
        };
        if tried != Tried::Published {
            manifest::remove_shards(store, self.output, &head).await?;
        }
        match tried {
            Tried::Refused(refusal) => Err(refusal.into()),
            tried => Ok(tried != Tried::Ended),
        }
    }

    /// What comes after the manifest. The output is there, so that what the store refuses for good
    /// does not end the job otherwise: that is answered as warnings.
    async fn follow(&self, products: &Products) -> Result<Vec<String>> {
        let (marked, removed) = tokio::join!(self.mark_success(), self.remove_replaced(products));
        let mut warnings = Vec::new();
        for (wanted, advice, done) in [
            ("_SUCCESS", "put it there", marked),
            ("nothing of what it replaces", "remove what the manifest does not name", removed),
        ] {
            match done {
                Err(error) if !error.is_transient() => {
                    tracing::warn!(job = %self.job.id, %error, wanted, "an output is there, and not all that follows");
                    warnings.push(format!(
                        "the output is whole, but expected {wanted} beside its manifest, found: {error}; {advice} by hand"
                    ));
                }
                done => done?,
            }
        }
        Ok(warnings)
    }

    /// The mark for readers of Hadoop's kind, which follows the manifest.
    async fn mark_success(&self) -> Result<()> {
        let mark = self.output.join(SUCCESS_NAME)?;
        self.vault.store().put(&mark, Bytes::new(), self.marked(PutOptions::default())).await?;
        Ok(())
    }

    async fn publish_head(&self, uri: &ObjectUri, head: &Manifest, products: &Products) -> Result<Tried> {
        let body = serde_json::to_vec(head).map_err(|e| Error::damaged(uri.to_string(), e))?;
        let body = Bytes::from(body);
        for _ in 0..TRIES_MAX {
            match self.publish_once(uri, (head, &body), products).await? {
                Tried::Outrun => {}
                tried => return Ok(tried),
            }
        }
        Err(occupied(uri, None).into())
    }

    /// What is written beside tables is marked like them, for triggers that look there.
    fn marked(&self, mut options: PutOptions) -> PutOptions {
        options.mark_depth(self.job.document.depth);
        options
    }

    /// One try, with the head and what it is as text.
    async fn publish_once(
        &self,
        uri: &ObjectUri,
        (head, body): (&Manifest, &Bytes),
        products: &Products,
    ) -> Result<Tried> {
        let (found, beside) = tokio::try_join!(self.found(uri), self.beside(products))?;
        if let Some(placed) = self.placed(found.as_ref(), head) {
            return Ok(placed);
        }
        // This coordinator may have been paused while another one ended the job. The place is
        // not the job's any more then, and what was found there may be a later job's.
        if self.vault.bytes(&keys::outcome(&self.job.id)).await?.is_some() {
            return Ok(Tried::Ended);
        }
        claim::hold(self.backbone, self.job, self.output).await?;
        if let Some((manifest, _)) = &found
            && !self.job.document.overwrite
        {
            return Err(occupied(uri, manifest.as_ref().map(|m| m.job)).into());
        }
        if !self.store_answer(products, beside).await? {
            return Ok(Tried::Outrun);
        }
        if let Some((Some(manifest), _)) = &found {
            // What it names is removed only after the new one is in its place.
            let old = serde_json::to_vec(manifest).map_err(|e| Error::damaged(uri.to_string(), e))?;
            let kept = self.vault.uri(&keys::replaced(&self.job.id))?;
            self.vault.store().put(&kept, old.into(), PutOptions::typed("application/json")).await?;
        }
        let seen = found.map(|(_, pin)| pin.etag);
        let published = self.put_over(uri, seen, body.clone()).await?;
        Ok(if published { Tried::Published } else { Tried::Outrun })
    }

    /// Writes JSON over what was seen there, by its ETag; false when something else is there now.
    async fn put_over(&self, uri: &ObjectUri, seen: Option<String>, body: Bytes) -> Result<bool> {
        let (store, options) = (self.vault.store(), self.marked(PutOptions::typed("application/json")));
        if seen.is_none() {
            // Not the job's id: what another coordinator of the job wrote is not this one's.
            let writer = Uuid::new_v4().to_string();
            let outcome = store.put_if_absent(uri, body, &writer, options).await?;
            return Ok(matches!(outcome, PutOutcome::Created(_)));
        }
        match store.put(uri, body, PutOptions { if_match: seen, ..options }).await {
            Ok(_) => Ok(true),
            Err(fanfold_storage::Error::Conflict { .. } | fanfold_storage::Error::NotFound { .. }) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Stores the answer in the platform's own place and, over what was seen there, where the
    /// manifest goes; false when something else is there now, as a later job's answer.
    async fn store_answer(&self, products: &Products, seen: Option<String>) -> Result<bool> {
        let (store, own) = (self.vault.store(), self.vault.uri(&keys::result(&self.job.id))?);
        let body = match &products.answer {
            Some(AnswerRef::Inline(answer)) => Bytes::copy_from_slice(answer.as_str().as_bytes()),
            Some(AnswerRef::Object(staged)) => store.get(staged, None).await?,
            None => return Ok(true),
        };
        let (beside, options) =
            (self.output.join(RESULT_NAME)?, self.marked(PutOptions::typed("application/json")));
        let put = async { store.put(&own, body.clone(), options).await.map_err(Error::from) };
        tokio::try_join!(put, self.put_over(&beside, seen, body.clone())).map(|(_, written)| written)
    }

    async fn remove_replaced(&self, products: &Products) -> Result<()> {
        if !self.job.document.overwrite {
            return Ok(());
        }
        let Some(old) = self.vault.read::<Manifest>(&keys::replaced(&self.job.id)).await? else {
            return Ok(());
        };
        let (store, uri) = (self.vault.store(), self.output.join(MANIFEST_NAME)?);
        // Once the job has ended, what lies there may be a later one's.
        if products.answer.is_none() && self.vault.bytes(&keys::outcome(&self.job.id)).await?.is_none() {
            store.delete(&self.output.join(RESULT_NAME)?).await?;
        }
        let print = |object: &OutputObject| Fingerprint::of_object(&object.uri);
        let kept: Prints<()> = products.manifest.objects.iter().map(|object| (print(object), ())).collect();
        let named = manifest::named(store, &uri, old.objects.clone(), old.shards.clone());
        let mut named = std::pin::pin!(named);
        loop {
            let objects = match named.try_next().await {
                Ok(Some(objects)) => objects,
                Ok(None) => break,
                // They were removed, by a coordinator that did not get further.
                Err(Error::Refused(problem)) if problem.code == ErrorKind::ObjectNotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            let gone = objects
                .iter()
                .filter(|object| object.uri.is_under(self.output) && kept.place(&print(object)).is_none());
            let gone: Vec<_> = gone.map(|object| object.uri.key().to_owned()).collect();
            store.delete_many(self.output.bucket(), gone).await?;
        }
        if old.job != self.job.id { manifest::remove_shards(store, self.output, &old).await } else { Ok(()) }
    }

    /// Removes what losers staged. Beside a manifest nobody sees what stays behind, so that a
    /// failure here does not keep a job from ending. Without one it would be read as input,
    /// so that a failure that passes is none that a job ends with.
    async fn sweep(&self, succeeded: bool, serves: bool) -> Result<()> {
        let swept = async {
            let staged = async {
                match succeeded {
                    true => Ok::<_, Error>(
                        sweep::staged(self.vault, self.job, serves).await?
                            + kept::forget(self.vault, self.job).await?,
                    ),
                    false => Ok(0),
                }
            };
            let sweep = Sweep { output: self.output, job: self.job, committed: false };
            let (staged, losers) = tokio::try_join!(staged, sweep.losers(self.vault, self.backbone))?;
            Ok::<_, Error>(staged + losers)
        };
        match swept.await {
            Ok(count) => tracing::debug!(job = %self.job.id, count, "swept what was staged"),
            Err(error) if !succeeded && error.is_transient() => return Err(error),
            Err(error) => tracing::warn!(job = %self.job.id, %error, "what losers staged stays behind"),
        }
        Ok(())
    }
}

/// What the author must know of an output in which something is missing.
fn missing(products: &Products) -> Option<String> {
    let first = products.manifest.failed.first()?;
    let objects: Vec<_> = first.input.iter().map(ToString::to_string).collect();
    let named = if products.is_cut { "says where they are named" } else { "names them all" };
    Some(format!(
        "{} of {} partitions failed and are missing in the output, which tolerates that: the first is task {} over \
         {} ({}); the manifest {named}, and fanfold job retry runs them again",
        products.tasks.failed,
        products.partitions,
        first.task,
        objects.join(" and "),
        first.problem.code
    ))
}

fn occupied(uri: &ObjectUri, job: Option<Uuid>) -> Problem {
    let job = job.map_or(String::new(), |job| format!(" of job {job}"));
    Problem::new(
        ErrorKind::OutputExists,
        format!(
            "expected no manifest at {uri}, found one{job} when the job was done; submit it with another output prefix"
        ),
    )
}

#[cfg(test)]
#[path = "finish_tests.rs"]
mod tests;
