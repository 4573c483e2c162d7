// SPDX-License-Identifier: Apache-2.0
//! One lease from its delivery to its end.
//!
//! Read, check, run its tasks, commit, announce, acknowledge. Failures
//! of functions and data are results and are committed; failures of the
//! platform are not, and the lease is given back, up to
//! [`TRIES_MAX`] times, and more often while this worker has no store. Invariant:
//! nothing staged outlives an attempt that does not commit, as far as the store can
//! be reached.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use fanfold_backbone::{Delivery, Shared};
use fanfold_protocol::{
    ErrorKind, Fault, Problem,
    commit::{Overtaken, TaskCommit, TaskOutcome},
    digest::Digest,
    invocation::{LogLine, Usage},
    keys,
    plan::{Lease, Task},
    worker::Member,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use super::{
    LEASE,
    aside::HOPS_MAX,
    commit::{self, Place},
    handover,
    logs::{self, Logs},
    shop::Shop,
    states, tasks,
};
use crate::{
    host::{Data, joined},
    sandbox::Ended,
    task::{self, Attempt, Product, TaskEnd, Waits},
};

/// Tries after which a lease's failure is recorded instead of tried again.
const TRIES_MAX: u32 = 8;
/// Tries in which a lease that cannot be read is left to others: a newer release may
/// have written it for newer workers.
const UNREAD_MAX: u32 = 3;
/// Before a lease that the platform failed is tried again, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long a lease runs before it is told of.
const TELL_AFTER: Duration = Duration::from_millis(500);
/// Between two times that it is told of, and that another attempt's commit is
/// looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why an attempt ends without a commit.
enum Ending {
    /// The job is cancelled, or another attempt has committed.
    Cancelled,
    /// The worker stops: before this has begun, or before it has ended.
    Drained,
    /// The store does not answer this worker.
    Unable,
    /// The platform failed.
    Failed(Problem),
}

/// Works on a delivery and settles it.
pub(super) async fn work(shared: &Shared<Arc<Shop>>) -> fanfold_backbone::Result<()> {
    let (shop, delivery) = (&shared.what, &shared.delivery);
    let lease: Lease = match serde_json::from_slice(&delivery.payload) {
        Ok(lease) => lease,
        Err(error) if tries(delivery.attempt, Some(0)) <= UNREAD_MAX => {
            let delay = backoff(tries(delivery.attempt, Some(0)));
            tracing::warn!(%error, id = delivery.id, ?delay, "a lease that cannot be read is given back");
            return delivery.nak(delay).await.map(drop);
        }
        Err(error) => {
            let reason = format!("expected a lease as JSON, found: {error}");
            return delivery.dead(&reason).await.map(drop);
        }
    };
    let place = Place::from(&lease);
    if lease.second && shop.here.has(place) {
        return leave_second(shop, delivery, place).await;
    }
    if delivery.attempt <= HOPS_MAX
        && another_holds(shop, &lease).await
        && let Some(step) = shop.asides.step(&delivery.id, delivery.attempt, Instant::now())
    {
        delivery.nak(step.delay).await?;
        // Meanwhile others pull, and may hold it.
        tokio::time::sleep(step.rest).await;
        return Ok(());
    }
    let _here = shop.here.begin(place);
    let (registration, heard) = (shop.cancels.register(lease.job), Instant::now());
    if shop.cancels.check(lease.job).await? {
        return delivery.ack().await.map(drop);
    }
    let job = lease.job;
    let stop = registration.token.child_token();
    let tries = tries(delivery.attempt, handover::count(&shop.backbone, delivery).await);
    let working = attempt(shared, lease, tries, heard, &stop);
    let ended = tokio::select! {
        ended = working => ended,
        () = heartbeat(shop, delivery, job) => return Ok(()),
        // What was staged is left to the job's sweep.
        () = shop.reach.lost() => Err(Ending::Unable),
    };
    match ended {
        Ok(()) | Err(Ending::Cancelled) => delivery.ack().await?,
        Err(Ending::Drained) => {
            handover::note(&shop.backbone, delivery).await;
            delivery.nak(Duration::ZERO).await?
        }
        Err(Ending::Unable) => {
            handover::note_without_store(&shop.backbone, delivery).await;
            delivery.nak(Duration::ZERO).await?
        }
        Err(Ending::Failed(problem)) => {
            let mut delay = backoff(tries);
            if is_without_store(shop).await {
                handover::note_without_store(&shop.backbone, delivery).await;
                // What makes no try waits longer each time all the same.
                delay = backoff(delivery.attempt.saturating_sub(HOPS_MAX));
            }
            tracing::warn!(%problem, id = delivery.id, ?delay, "a lease is given back");
            delivery.nak(delay).await?
        }
    };
    Ok(())
}

/// Leaves a second attempt to other workers, as this one runs the first; for a few deliveries, as
/// there may be no other.
async fn leave_second(shop: &Shop, delivery: &Delivery, place: Place) -> fanfold_backbone::Result<()> {
    if delivery.attempt < HOPS_MAX {
        return delivery.nak(backoff(delivery.attempt)).await.map(drop);
    }
    let Place { job, stage, group, .. } = place;
    tracing::debug!(%job, stage, group, "no other worker begins a lease a second time");
    tell_nothing_done(shop, place).await;
    delivery.ack().await.map(drop)
}

/// Tells of a second attempt that ends before it has begun.
async fn tell_nothing_done(shop: &Shop, place: Place) {
    let nothing = Some(commit::overtaken(Uuid::new_v4(), &[]));
    commit::announce_running(shop, place, Duration::ZERO, None, nothing).await;
}

/// Whether this worker has no store. What the platform fails at meanwhile says nothing of a lease,
/// in whatever words.
async fn is_without_store(shop: &Shop) -> bool {
    let data = &shop.platform.data;
    shop.reach.is_without(&data.store, &data.tenant.system_bucket).await
}

/// Whether this worker would have to compile a lease's component and another one
/// would not. That is asked only while the first is so: once for each component.
async fn another_holds(shop: &Shop, lease: &Lease) -> bool {
    let Ok(version) = shop.version(&lease.function, lease.version).await else { return false };
    if shop.platform.components.holds(&version.digest) {
        return false;
    }
    let members = shop.members.list(keys::MEMBERS).await.unwrap_or_default();
    let mut members = members.iter().filter_map(|(_, entry)| serde_json::from_slice(&entry.value).ok());
    members.any(|other: Member| other.name.as_str() != shop.name && is_ready(&other, version.digest))
}

/// Whether a worker takes leases of a component and need not compile it.
fn is_ready(member: &Member, digest: Digest) -> bool {
    !member.draining && member.store_answers && member.holds(digest)
}

/// Tries of a lease, with the one that a delivery is. Any of the first [`HOPS_MAX`] may have been
/// left to others, which nobody counts, so none of them counts as one that failed; nor do those
/// of the further ones that were handed over. Where these are not known, the last try is
/// still to come.
fn tries(delivery: u32, handed_over: Option<u32>) -> u32 {
    let tries = delivery.saturating_sub(HOPS_MAX).saturating_sub(handed_over.unwrap_or(0)).max(1);
    if handed_over.is_none() && delivery <= handover::PATIENCE { tries.min(TRIES_MAX - 1) } else { tries }
}

/// Doubles with each try.
fn backoff(tries: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(BACKOFF.1)
}

/// Keeps the lease for as long as it is worked on; ends with the backbone.
async fn heartbeat(shop: &Shop, delivery: &Delivery, job: Uuid) {
    loop {
        tokio::time::sleep(LEASE / 3).await;
        match delivery.extend(LEASE).await {
            Ok(_) => {}
            Err(fanfold_backbone::Error::Closed) => return,
            Err(error) => tracing::warn!(%error, id = delivery.id, "a lease cannot be extended"),
        }
        if let Err(error) = shop.cancels.check(job).await {
            tracing::warn!(%error, %job, "a job's cancellation cannot be looked up");
        }
    }
}

/// Tells of a lease that takes a while, but for what it waits for room, which makes no straggler,
/// and stops the attempt once another one has committed; never ends by itself.
async fn watch(shop: &Shop, attempt: &Attempt, stop: &CancellationToken) -> Infallible {
    let (place, begun) = (Place::from(&attempt.lease), Instant::now());
    tokio::time::sleep(TELL_AFTER).await;
    loop {
        let (waited, waits) = attempt.waits.so_far();
        if !waits {
            let ran = begun.elapsed().saturating_sub(waited);
            commit::announce_running(shop, place, ran, Some(&attempt.abreast), None).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        match commit::winner(&shop.platform.data, place).await {
            Ok(Some(_)) => stop.cancel(),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, job = %place.job, "a lease's commit cannot be looked for"),
        }
    }
}

/// `heard` is when the job was last known to be wanted.
async fn attempt(
    shared: &Shared<Arc<Shop>>,
    lease: Lease,
    tries: u32,
    heard: Instant,
    stopped: &CancellationToken,
) -> Result<(), Ending> {
    let (shop, delivery) = (&shared.what, &shared.delivery);
    let data = &shop.platform.data;
    let place = Place::from(&lease);
    // A commit without an acknowledgement: the worker before stopped between. Or the
    // first attempt ended while the second one was in the queue, or the message was not lost.
    let is_repeated = delivery.attempt > 1 || lease.second || delivery.id.contains(keys::LEASE_AGAIN);
    if is_repeated && let Some(winner) = commit::winner(data, place).await.map_err(Ending::Failed)? {
        commit::announce(&shop.backbone, &lease, &winner).await;
        if lease.second {
            tell_nothing_done(shop, place).await;
        }
        return Ok(());
    }
    let last = tries >= TRIES_MAX;
    let version = match shop.version(&lease.function, lease.version).await {
        Ok(version) => version,
        Err(problem) => {
            if problem.code.fault() == Fault::Platform && (!last || is_without_store(shop).await) {
                return Err(Ending::Failed(problem));
            }
            return give_up(shop, lease, &problem).await;
        }
    };
    if tries > TRIES_MAX {
        let problem = crate::internal(format!(
            "expected the lease to end within {TRIES_MAX} tries, found that none of them did; \
             its function or its input may stop workers"
        ));
        return give_up(shop, lease, &problem).await;
    }
    let (asked, stop) = (Instant::now(), stopped.child_token());
    let (id, begun, waits) = (Uuid::new_v4(), CancellationToken::new(), Waits::default());
    let abreast = shop.last.begin(&lease, is_repeated);
    let attempt = Arc::new(Attempt { lease, version, id, stop: stop.clone(), begun, waits, abreast });
    let done = Done::default();
    let ran = tokio::select! {
        ran = in_turn(shared, &attempt, stopped, on_guest_thread(shop, &attempt, last, &done)) => ran,
        () = shop.drained.cancelled() => Err(Ending::Drained),
        () = drained_before(shop, &attempt) => Err(Ending::Drained),
    };
    stop.cancel();
    let ran = match ran {
        Ok(()) if heard.elapsed() > TELL_AFTER => wanted(data, &place.job).await,
        ran => ran,
    };
    let done = std::mem::take(&mut *done.lock().unwrap_or_else(PoisonError::into_inner));
    let overtaken = match ran {
        Ok(()) => commit_all(shop, &attempt, done).await?,
        Err(ending) => {
            commit::remove(data, &done.tasks).await;
            if !matches!(ending, Ending::Cancelled) {
                return Err(ending);
            }
            Some(commit::overtaken(attempt.id, &done.tasks))
        }
    };
    if overtaken.is_some() {
        commit::announce_running(shop, place, asked.elapsed(), None, overtaken).await;
    }
    Ok(())
}

/// Ends an attempt at a job that has been stopped meanwhile. Whoever is cut off from the backbone,
/// or was halted, has not heard of that; what it wrote nobody would remove after the job's sweep.
async fn wanted(data: &Data, job: &Uuid) -> Result<(), Ending> {
    match commit::is_stopped(data, job).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(Ending::Cancelled),
        Err(problem) => Err(Ending::Failed(problem)),
    }
}

/// What came of the tasks of a lease so far.
#[derive(Default)]
struct WorkDone {
    /// As they ended.
    tasks: Vec<TaskCommit>,
    logs: Logs,
}

/// The same, shared with the thread that runs them.
type Done = Arc<Mutex<WorkDone>>;

/// Commits what a lease gave; answers what it took when that does not count.
async fn commit_all(shop: &Shop, attempt: &Attempt, mut done: WorkDone) -> Result<Option<Overtaken>, Ending> {
    let (data, lease) = (&shop.platform.data, &attempt.lease);
    done.tasks.sort_by_key(|task| task.index);
    let logs = done.logs.put(data, lease, attempt.id).await.map_err(Ending::Failed)?;
    let (committed, overtaken) =
        commit::put(data, &shop.name, lease.into(), attempt.id, done.tasks).await.map_err(Ending::Failed)?;
    if overtaken.is_some() {
        logs::remove(data, &logs).await;
    }
    commit::announce(&shop.backbone, lease, &committed).await;
    Ok(overtaken)
}

/// Commits the same failure for every task of a lease that cannot be run.
async fn give_up(shop: &Shop, lease: Lease, problem: &Problem) -> Result<(), Ending> {
    let failed = |task: &Task| TaskCommit {
        index: task.index,
        attempt: task.attempt,
        outcome: TaskOutcome::Failed(problem.clone()),
        usage: Usage::default(),
        looked_outside: false,
    };
    let tasks = lease.tasks.iter().map(failed).collect();
    let data = &shop.platform.data;
    let (committed, _) = commit::put(data, &shop.name, (&lease).into(), Uuid::new_v4(), tasks)
        .await
        .map_err(Ending::Failed)?;
    commit::announce(&shop.backbone, &lease, &committed).await;
    Ok(())
}

/// Waits for a turn, which is over before anything is committed. Only from then on
/// the attempt takes time that tells it from others, and only what runs is kept while the store
/// is silent for a moment.
async fn in_turn(
    shared: &Shared<Arc<Shop>>,
    attempt: &Attempt,
    stop: &CancellationToken,
    running: impl Future<Output = Result<(), Ending>>,
) -> Result<(), Ending> {
    let (shop, place, asked) = (&shared.what, Place::from(&attempt.lease), Instant::now());
    let _turn = tokio::select! {
        biased;
        () = shop.reach.silent_to_who_waits() => return Err(Ending::Unable),
        // It is never closed.
        turn = shop.turns.acquire() => turn,
    };
    if asked.elapsed() > TELL_AFTER
        && commit::winner(&shop.platform.data, place).await.map_err(Ending::Failed)?.is_some()
    {
        return Err(Ending::Cancelled);
    }
    tokio::select! {
        ran = shared.spend(running) => ran,
        never = watch(shop, attempt, stop) => match never {},
    }
}

/// Waits until the worker is told to stop; never ends for an attempt that has begun by then.
async fn drained_before(shop: &Shop, attempt: &Attempt) {
    shop.draining.cancelled().await;
    if attempt.begun.is_cancelled() {
        std::future::pending::<()>().await;
    }
}

/// Runs the tasks on a guest thread; they stop when this is dropped. The way there and
/// back is paid once a lease.
async fn on_guest_thread(
    shop: &Arc<Shop>,
    attempt: &Arc<Attempt>,
    last: bool,
    done: &Done,
) -> Result<(), Ending> {
    let run = {
        let (shop, attempt, done) = (Arc::clone(shop), Arc::clone(attempt), Arc::clone(done));
        async move {
            let Attempt { lease, abreast, stop, .. } = &*attempt;
            let run = |task, beside| run_task(&shop, &attempt, task, beside, last);
            let told = |task: &Task, (committed, lines): (TaskCommit, Vec<LogLine>)| {
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.logs.add(task, matches!(committed.outcome, TaskOutcome::Failed(_)), lines);
                done.tasks.push(committed);
            };
            tasks::run(&lease.tasks, abreast, stop, run, told).await?;
            shop.last.note(lease, abreast);
            if stop.is_cancelled() { Err(Ending::Cancelled) } else { Ok(()) }
        }
    };
    joined(AbortOnDropHandle::new(shop.guests.spawn(run)).await).map_err(Ending::Failed)?
}

/// What came of a task, and what it logged; nothing where there is no room for it beside others.
async fn run_task(
    shop: &Shop,
    attempt: &Attempt,
    task: &Task,
    beside: bool,
    last: bool,
) -> Result<Option<(TaskCommit, Vec<LogLine>)>, Ending> {
    let asked = Instant::now();
    let Some(end) = task::run(&shop.platform, attempt, task, beside).await else { return Ok(None) };
    if attempt.stop.is_cancelled() {
        return Ok(Some((stopped(task, end), Vec::new())));
    }
    let TaskEnd { ended, platform_failed, looked_outside, waited } = end;
    let Ended { result, logs, mut usage, .. } = ended;
    let (data, mut staging) = (&shop.platform.data, Usage::default());
    let staged = match result {
        Ok(product) => states::stage(data, attempt, task, product, &mut staging).await.map_err(|p| (p, true)),
        Err(problem) => {
            let by_platform = platform_failed || is_excused(&problem, beside);
            Err((problem, by_platform))
        }
    };
    usage.add(&staging);
    attempt.abreast.saw(Duration::from_micros(usage.cpu_us), asked.elapsed().saturating_sub(waited));
    let outcome = match staged {
        Ok(outcome) => outcome,
        Err((problem, by_platform)) => {
            if by_platform && (!last || is_without_store(shop).await) {
                return Err(Ending::Failed(problem));
            }
            TaskOutcome::Failed(problem)
        }
    };
    let (index, attempt) = (task.index, task.attempt);
    Ok(Some((TaskCommit { index, attempt, outcome, usage, looked_outside }, logs)))
}

/// Whether a failure is no verdict on a task that ran beside others: they took of its time. The lease is
/// tried again, and one at a time.
fn is_excused(problem: &Problem, beside: bool) -> bool {
    beside && problem.code == ErrorKind::DeadlineExceeded
}

/// A task that ended as its attempt was stopped: what it took, and what it wrote
/// to be removed.
fn stopped(task: &Task, end: TaskEnd) -> TaskCommit {
    let Ended { result, usage, .. } = end.ended;
    let outcome = match result {
        Ok(Product::Table(table) | Product::Mapped(table, _)) => TaskOutcome::Table(table),
        Ok(Product::Runs(runs)) => TaskOutcome::State(runs),
        Ok(Product::State(_) | Product::Answer(..)) => TaskOutcome::Table(None),
        Err(problem) => TaskOutcome::Failed(problem),
    };
    let (index, attempt) = (task.index, task.attempt);
    TaskCommit { index, attempt, outcome, usage, looked_outside: end.looked_outside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_over_is_held_against_who_had_it_alone() {
        for (kind, beside, expected) in [
            (ErrorKind::DeadlineExceeded, true, true),
            (ErrorKind::DeadlineExceeded, false, false),
            (ErrorKind::GuestTrapped, true, false),
        ] {
            assert_eq!(is_excused(&Problem::new(kind, "why"), beside), expected, "{kind:?} {beside}");
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        assert_eq!(backoff(1), Duration::from_millis(500));
        assert_eq!(backoff(3), Duration::from_secs(2));
        assert_eq!(backoff(7), Duration::from_secs(30));
        assert_eq!(backoff(u32::MAX), Duration::from_secs(30));
    }

    #[test]
    fn deliveries_that_may_have_been_left_to_others_are_no_failures() {
        for (delivery, expected) in [(1, 1), (HOPS_MAX, 1), (HOPS_MAX + 1, 1), (HOPS_MAX + 2, 2)] {
            assert_eq!(tries(delivery, Some(0)), expected, "{delivery}");
        }
        assert!(tries(HOPS_MAX + TRIES_MAX - 1, Some(0)) < TRIES_MAX);
        assert_eq!(tries(HOPS_MAX + TRIES_MAX, Some(0)), TRIES_MAX);
    }

    #[test]
    fn deliveries_that_were_handed_over_are_no_failures() {
        assert_eq!(tries(HOPS_MAX + 2, Some(1)), 1);
        assert_eq!(tries(HOPS_MAX + TRIES_MAX + 3, Some(3)), TRIES_MAX);
        assert_eq!(tries(2, Some(5)), 1);
        // Nobody knows: that gives nothing up, unless it goes on and on.
        assert_eq!(tries(HOPS_MAX + 2, None), 2);
        assert_eq!(tries(HOPS_MAX + TRIES_MAX + 12, None), TRIES_MAX - 1);
        assert!(tries(handover::PATIENCE + 1, None) > TRIES_MAX);
    }

    #[test]
    fn leases_are_left_to_workers_that_can_take_them_at_once() {
        let digest = Digest::of(b"component");
        let member = |change: fn(&mut Member)| {
            let mut member: Member = serde_json::from_value(serde_json::json!({
                "name": "other", "instance": Uuid::nil(), "address": "other:1", "wire": 2, "version": "0.1.0",
                "engine": "e", "slots": 1, "memory_bytes": 1, "cached": [digest.prefix()],
            }))
            .unwrap();
            change(&mut member);
            is_ready(&member, digest)
        };
        assert!(member(|_| {}), "one of an earlier release does not say how its store is");
        assert!(!member(|member| member.store_answers = false));
        assert!(!member(|member| member.draining = true));
        assert!(!member(|member| member.cached.clear()));
    }
}
