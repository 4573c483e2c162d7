// SPDX-License-Identifier: Apache-2.0
//! Where the platform keeps its own objects, records and messages: pure
//! functions from identifiers to keys and subjects.
//!
//! Objects lie in the system bucket. Identifiers that get here are validated,
//! so no key needs escaping.

use uuid::Uuid;

use crate::{
    digest::Digest,
    names::{FunctionName, TenantName, TriggerName, WorkerName},
    tenant::Tenant,
};

/// The bucket of the platform's own objects, unless configured otherwise.
pub const SYSTEM_BUCKET_DEFAULT: &str = "fanfold";

/// Queue of the leases of jobs' tasks.
pub const TASK_QUEUE: &str = "tasks";
/// In the id of a lease's message: the queue seemed to have lost the one before, which may
/// have been committed all the same. Behind it stands how often.
pub const LEASE_AGAIN: &str = "/again-";

/// Queue of asynchronous invocations.
pub const INVOCATION_QUEUE: &str = "invocations";

/// Records in the backbone of workers that are there.
pub const MEMBERS: &str = "workers/";

/// A worker's own.
pub fn member(name: &WorkerName) -> String {
    format!("workers/{name}")
}

/// Subject on which workers are told of that were refused for want of a name of
/// their own.
pub fn name_taken(name: &WorkerName) -> String {
    format!("workers.{name}.taken")
}

/// Pattern of all of these.
pub const NAMES_TAKEN: &str = "workers.*.taken";

/// The name that such a subject is about.
pub fn parse_name_taken(subject: &str) -> Option<&str> {
    subject.strip_prefix("workers.")?.strip_suffix(".taken")
}

/// Records in the backbone of components that may end their workers.
pub const SUSPICIONS: &str = "suspicions/";

/// A component's own.
pub fn suspicion(digest: &Digest) -> String {
    format!("suspicions/{}", digest.to_hex())
}

/// Records in the backbone of a tenant's gateways that are there.
pub fn gateways(tenant: &TenantName) -> String {
    format!("gateways/{tenant}/")
}

/// Records in the backbone of the tenants of a deployment.
pub const TENANTS: &str = "tenants/";

/// One of them, by its place: the one without a scope of its own may be given another name.
pub fn tenant(tenant: &Tenant) -> String {
    if tenant.scope.is_empty() { "tenants/_".to_owned() } else { format!("tenants/{}", tenant.name) }
}

/// What a tenant's keys and queues in the backbone begin with, where it is not
/// the one whose system bucket is the deployment's own. Disjoint from every other key.
pub fn tenant_scope(name: &TenantName) -> String {
    format!("of/{name}/")
}

/// Records in the backbone of what the store cannot do.
pub const STORE_RECORDS: &str = "store/";

/// There once the store was seen to fail at conditional writes.
pub const ARBITRATED: &str = "store/arbitrated";

/// Records in the backbone of who writes, where the store cannot decide.
pub const CONTESTS: &str = "contests/";

/// One of them.
pub fn contest(contest: &str) -> String {
    format!("contests/{contest}")
}

/// A component, by its content.
pub fn component(digest: &Digest) -> String {
    format!("components/{}.wasm", digest.to_hex())
}

/// A version of a function.
pub fn version(name: &FunctionName, version: u32) -> String {
    format!("functions/{name}/versions/{version:08}.json")
}

/// All versions of a function.
pub fn versions(name: &FunctionName) -> String {
    format!("functions/{name}/versions/")
}

/// A function's aliases, as the store keeps them for the day the backbone is lost.
pub fn aliases(name: &FunctionName) -> String {
    format!("functions/{name}/aliases.json")
}

/// All functions.
pub const FUNCTIONS: &str = "functions/";

/// Record of a function in the backbone.
pub fn function_record(name: &FunctionName) -> String {
    format!("functions/{name}")
}

/// A job's folder.
pub fn job(id: &Uuid) -> String {
    format!("jobs/{id}/")
}

/// All jobs.
pub const JOBS: &str = "jobs/";

/// The job as accepted.
pub fn job_document(id: &Uuid) -> String {
    format!("jobs/{id}/job.json")
}

/// The head of its plan.
pub fn plan(id: &Uuid) -> String {
    format!("jobs/{id}/plan.json")
}

/// Its plan before the job is accepted: what its head will be.
pub fn plan_draft(id: &Uuid) -> String {
    format!("jobs/{id}/draft.json")
}

/// A shard of its partitions: one JSON document a line.
pub fn plan_shard(id: &Uuid, shard: u32) -> String {
    format!("jobs/{id}/plan/{shard:06}.jsonl")
}

/// All commits of a job.
pub fn commits(id: &Uuid) -> String {
    format!("jobs/{id}/commits/")
}

/// The commit of a lease.
pub fn commit(id: &Uuid, stage: u32, group: u32, round: u32) -> String {
    format!("jobs/{id}/commits/{stage:02}/{group:07}/{round:03}.json")
}

/// Reads stage, group and round back from a key made by [`commit`].
pub fn parse_commit(id: &Uuid, key: &str) -> Option<(u32, u32, u32)> {
    let rest = key.strip_prefix(&commits(id))?.strip_suffix(".json")?;
    let mut parts = rest.split('/').map(|part| part.parse().ok());
    let parsed = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(parsed)
}

/// What the tasks of a job logged, those that failed first.
pub fn task_logs(id: &Uuid) -> String {
    format!("jobs/{id}/logs/")
}

/// The place of what tasks of a lease logged in one attempt at it. It counts if
/// the lease's commit is that attempt's. In the order of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogKey {
    /// Whether it is that of the tasks that failed, or of the others.
    pub failed: bool,
    /// Stage of the plan.
    pub stage: u32,
    /// Group within the stage.
    pub group: u32,
    /// Round of the group.
    pub round: u32,
    /// The attempt that wrote it.
    pub attempt: Uuid,
}

impl LogKey {
    /// What all keys of a job begin with, of tasks that ended so.
    pub fn of_job(id: &Uuid, failed: bool) -> String {
        format!("{}{}/", task_logs(id), if failed { "failed" } else { "succeeded" })
    }

    /// What those of one group begin with.
    pub fn of_group(id: &Uuid, failed: bool, stage: u32, group: u32) -> String {
        format!("{}{stage:02}/{group:07}/", Self::of_job(id, failed))
    }

    /// The key.
    pub fn key(&self, id: &Uuid) -> String {
        let Self { failed, stage, group, round, attempt } = self;
        format!("{}{round:03}-{attempt}.jsonl", Self::of_group(id, *failed, *stage, *group))
    }

    /// Reads a key that [`LogKey::key`] made.
    pub fn parse(id: &Uuid, key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(&task_logs(id))?.strip_suffix(".jsonl")?.split('/');
        let failed = match parts.next()? {
            "failed" => true,
            "succeeded" => false,
            _ => return None,
        };
        let (stage, group) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (round, attempt) = parts.next()?.split_once('-')?;
        let read = Self { failed, stage, group, round: round.parse().ok()?, attempt: attempt.parse().ok()? };
        parts.next().is_none().then_some(read)
    }
}

/// Objects that an attempt stages: states and answers too large for a commit.
pub fn staged(id: &Uuid, stage: u32, task: u32, attempt: &Uuid, what: &str) -> String {
    format!("jobs/{id}/staged/{stage:02}/{task:07}-{attempt}.{what}")
}

/// All objects that attempts at a job's tasks staged here.
pub fn all_staged(id: &Uuid) -> String {
    format!("jobs/{id}/staged/")
}

/// Tables of a job that ended without output, kept for the job that runs it again.
pub fn all_kept(id: &Uuid) -> String {
    format!("jobs/{id}/kept/")
}

/// All marks of jobs that kept something for a retry.
pub const KEPT_MARKS: &str = "kept/";

/// The mark of one of them: an empty object.
pub fn kept_mark(id: &Uuid) -> String {
    format!("kept/{id}")
}

/// A table of [`all_kept`], by the name that it had under the output prefix.
pub fn kept(id: &Uuid, name: &str) -> String {
    format!("jobs/{id}/kept/{name}")
}

/// The tasks of a job that failed for good: one JSON document a line.
pub fn dead_letters(id: &Uuid) -> String {
    format!("jobs/{id}/dead-letters.jsonl")
}

/// Where a job that names no output puts its tables.
pub fn default_output(id: &Uuid) -> String {
    format!("jobs/{id}/output/")
}

/// Whether a key of the platform's own bucket, or each that begins with it, lies there.
pub fn is_in_default_output(key: &str) -> bool {
    let step = key.strip_prefix(JOBS).and_then(|rest| rest.split_once('/'));
    step.is_some_and(|(id, rest)| id.parse::<Uuid>().is_ok() && rest.starts_with("output/"))
}

/// Name of a table that an attempt stages under an output prefix.
pub fn output_part(task: u32, attempt: &Uuid, extension: &str) -> String {
    format!("part-{task:07}-{attempt}.{extension}")
}

/// How a job ended.
pub fn outcome(id: &Uuid) -> String {
    format!("jobs/{id}/outcome.json")
}

/// How a job is to end, decided once, before anything is published or swept:
/// whoever takes the job over carries out what stands here.
pub fn ending(id: &Uuid) -> String {
    format!("jobs/{id}/ending.json")
}

/// The result of an aggregate, in the platform's own place.
pub fn result(id: &Uuid) -> String {
    format!("jobs/{id}/result.json")
}

/// The manifest that a job with `overwrite` replaces, kept until the objects
/// that it names are removed.
pub fn replaced(id: &Uuid) -> String {
    format!("jobs/{id}/replaced.json")
}

/// All marks of jobs that may serve the tasks of others.
pub const CACHES: &str = "cache/";

/// The marks of the jobs under one key.
pub fn cache(key: &Digest) -> String {
    format!("cache/{}/", key.to_hex())
}

/// Those of them whose input was written in the same words, of which this is the digest.
pub fn cache_over(key: &Digest, input: &Digest) -> String {
    format!("{}{:016x}/", cache(key), input.prefix())
}

/// The mark of one of them: an empty object.
pub fn cached(key: &Digest, input: &Digest, job: &Uuid) -> String {
    format!("{}{job}", cache_over(key, input))
}

/// Who coordinates a job: a record in the backbone that lapses.
pub fn coordinator(id: &Uuid) -> String {
    format!("coordinators/{id}")
}

/// Records in the backbone of output prefixes that jobs write under.
pub const OUTPUT_CLAIMS: &str = "outputs/";

/// Which job writes under an output prefix: a record in the backbone, so that
/// never two do at the same time.
pub fn output_claim(prefix_digest: &Digest) -> String {
    format!("outputs/{}", prefix_digest.to_hex())
}

/// Record of a job in the backbone.
pub fn job_record(id: &Uuid) -> String {
    format!("jobs/{id}")
}

/// Marks in the backbone of jobs that are to be stopped.
pub const JOB_CANCELS: &str = "cancels/";

/// A job's own.
pub fn job_cancel(id: &Uuid) -> String {
    format!("cancels/{id}")
}

/// Records in the backbone of leases that workers handed over because they stopped.
pub const HAND_OVERS: &str = "handovers/";

/// One lease's, by the id of its message.
pub fn hand_over(message: &Digest) -> String {
    format!("handovers/{}", message.to_hex())
}

/// Subject on which commits of a job are announced.
pub fn commit_subject(id: &Uuid) -> String {
    format!("jobs.{id}.commits")
}

/// Subject on which leases of a job that take a while are announced.
pub fn running_subject(id: &Uuid) -> String {
    format!("jobs.{id}.running")
}

/// Subject on which a job's cancellation is announced.
pub fn cancel_subject(id: &Uuid) -> String {
    format!("jobs.{id}.cancel")
}

/// All triggers, in the store and in the backbone.
pub const TRIGGERS: &str = "triggers/";

/// A trigger, as the store keeps it.
pub fn trigger(name: &TriggerName) -> String {
    format!("triggers/{name}.json")
}

/// Record of a trigger in the backbone.
pub fn trigger_record(name: &TriggerName) -> String {
    format!("triggers/{name}")
}

/// Queue of the events that wait for a trigger.
pub fn event_queue(trigger: &Uuid) -> String {
    format!("events/{trigger}")
}

/// Outcomes of a trigger's events in the backbone.
pub fn outcomes(trigger: &Uuid) -> String {
    format!("settled/{trigger}/")
}

/// What became of one of them.
pub fn event_outcome(trigger: &Uuid, identity: &Digest) -> String {
    format!("settled/{trigger}/{}", identity.to_hex())
}

/// Outcomes of a trigger's events, packed, as the store keeps them.
pub fn packed_outcomes(trigger: &Uuid) -> String {
    format!("settled/{trigger}")
}

/// Who looked last for objects whose events were lost: a record that lapses.
pub fn last_look(trigger: &Uuid) -> String {
    format!("looks/{trigger}")
}

/// Who listed last what a trigger acted on before: a record that lapses.
pub fn last_sweep(trigger: &Uuid) -> String {
    format!("sweeps/{trigger}")
}

/// Batches of a trigger's events that are being started.
pub fn batches(trigger: &Uuid) -> String {
    format!("batches/{trigger}/")
}

/// One of them.
pub fn batch(trigger: &Uuid, id: &Uuid) -> String {
    format!("batches/{trigger}/{id}")
}

/// What is known of the events of a trigger's keys, where they are taken in order.
pub fn last_events(trigger: &Uuid) -> String {
    format!("sequences/{trigger}/")
}

/// The same of one key.
pub fn last_event(trigger: &Uuid, key_digest: &Digest) -> String {
    format!("sequences/{trigger}/{}", key_digest.to_hex())
}

/// Record in the backbone of an asynchronous invocation that has not ended.
pub fn invocation_record(id: &Uuid) -> String {
    format!("invocations/{id}")
}

/// All of them.
pub const INVOCATION_RECORDS: &str = "invocations/";

/// How an asynchronous invocation ended.
pub fn invocation_end(id: &Uuid) -> String {
    format!("invocations/ends/{id}")
}

/// All of them.
pub const INVOCATION_ENDS: &str = "invocations/ends/";

/// What an attempt at an asynchronous invocation returned, when it is too large
/// to be written down with the end.
pub fn invocation_body(attempt: &Uuid) -> String {
    format!("invocations/bodies/{attempt}")
}

/// All of them.
pub const INVOCATION_BODIES: &str = "invocations/bodies/";

/// Subject on which the cancellation of an asynchronous invocation is announced.
pub fn invocation_cancel_subject(id: &Uuid) -> String {
    format!("invocations.{id}.cancel")
}

/// Record in the backbone of a request made under an idempotency key.
pub fn idempotency(scope: &str, key_digest: &Digest) -> String {
    format!("idempotency/{scope}/{}", key_digest.to_hex())
}

/// Bodies of remembered answers that are too large for their records.
pub const IDEMPOTENCY_BODIES: &str = "idempotency/";

/// The body of the remembered answer of an invocation.
pub fn idempotency_body(invocation: &Uuid) -> String {
    format!("idempotency/{invocation}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_keys_read_back() {
        let id = Uuid::from_u128(7);
        assert_eq!(parse_commit(&id, &commit(&id, 2, 31, 1)), Some((2, 31, 1)));
        assert_eq!(parse_commit(&id, "jobs/x/commits/00/0000001/000.json"), None);
        assert_eq!(parse_commit(&id, &format!("{}00/1.json", commits(&id))), None);
    }

    #[test]
    fn outputs_are_told_from_what_is_beside_them() {
        let id = Uuid::from_u128(7);
        let output = default_output(&id);
        assert!(is_in_default_output(&output) && is_in_default_output(&format!("{output}a/b")));
        for other in [
            job(&id),
            job_document(&id),
            output.trim_end_matches('/').to_owned(),
            output.replace("jobs", "x"),
        ] {
            assert!(!is_in_default_output(&other), "{other}");
        }
        assert!(!is_in_default_output("") && !is_in_default_output("jobs/x/output/"));
    }

    #[test]
    fn names_that_are_taken_read_back() {
        let name: WorkerName = "w-1".parse().unwrap();
        assert_eq!(parse_name_taken(&name_taken(&name)), Some("w-1"));
        assert_eq!(NAMES_TAKEN.replace('*', name.as_str()), name_taken(&name));
        assert_eq!(parse_name_taken("workers.w-1"), None);
    }

    #[test]
    fn keys_of_logs_read_back_and_failures_come_first() {
        let (id, attempt) = (Uuid::from_u128(7), Uuid::from_u128(9));
        let keys = [(true, 1, 0), (false, 0, 2), (false, 0, 31), (false, 1, 0)];
        let keys = keys.map(|(failed, stage, group)| LogKey { failed, stage, group, round: 2, attempt });
        for key in keys {
            assert_eq!(LogKey::parse(&id, &key.key(&id)), Some(key));
        }
        assert!(keys.map(|key| key.key(&id)).is_sorted());
        let at = task_logs(&id);
        for other in ["x", "failed/00/1.jsonl", "odd/00/0000001/000-x.jsonl"] {
            assert_eq!(LogKey::parse(&id, &format!("{at}{other}")), None, "{other}");
        }
    }
}
