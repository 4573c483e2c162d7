// SPDX-License-Identifier: Apache-2.0
//! Leases that take much longer than the others of their stage.
//!
//! Workers tell of leases that take a while; what is told is compared with the
//! time within which three quarters of the stage were done. Only a matter of
//! speed: of two attempts the first commit wins, and a notice that is lost
//! means one attempt. Where one worker does all of a job, none is begun a second time:
//! beside itself it would be no faster, and fill the service with it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use fanfold_protocol::{
    ErrorKind,
    commit::{RunningNotice, RunningTask},
    invocation,
};

use super::{machine::Progress, slots::LeaseSpec};

/// How much longer than the others a task runs before it is begun a second time.
const FACTOR: u32 = 2;

/// Stage, group and round.
pub type Place = (u32, u32, u32);

/// A lease that is being worked on.
#[derive(Clone, Debug)]
pub struct Running {
    /// Since when, on this process's clock.
    pub since: Instant,
    /// By whom.
    pub worker: String,
    /// How far the first task that says so is, of those that run, as last told.
    pub progress: Option<invocation::Progress>,
    /// How many of its tasks may run at once, as last told.
    pub width: u32,
    /// Those that run, as last told.
    pub tasks: Vec<RunningTask>,
}

/// The leases of one job that take a while.
#[derive(Debug)]
pub struct Stragglers {
    running: BTreeMap<Place, Running>,
    /// When a worker told of any lease the last time.
    told: Option<Instant>,
    /// The workers that the job was seen to have, of whom two are enough to know.
    workers: Vec<String>,
    /// What nothing is overdue before.
    least: Duration,
}

impl Stragglers {
    /// Nothing was told yet.
    pub fn new(least: Duration) -> Self {
        Self { running: BTreeMap::new(), told: None, workers: Vec::new(), least }
    }

    /// Takes in what a worker tells. Of two attempts the older one counts.
    pub fn note(&mut self, notice: RunningNotice, now: Instant) {
        self.told = Some(now);
        self.saw(&notice.worker);
        let running_for = Duration::from_millis(notice.running_ms);
        let since = now.checked_sub(running_for).unwrap_or(now);
        let place = (notice.stage, notice.group, notice.round);
        let running = Running { since, worker: notice.worker, progress: None, width: 1, tasks: Vec::new() };
        let known = self.running.entry(place).or_insert(running);
        known.since = known.since.min(since);
        known.progress = notice.progress.or(known.progress);
        (known.width, known.tasks) = (notice.width.max(1), notice.tasks);
    }

    /// Forgets a lease that a worker has told of and now tells that its attempt has ended.
    pub fn forget(&mut self, ended: &RunningNotice) {
        let place = (ended.stage, ended.group, ended.round);
        // Of two attempts the other one goes on.
        if self.running.get(&place).is_some_and(|known| known.worker == ended.worker) {
            self.running.remove(&place);
        }
    }

    /// Whether any lease is worked on, as far as it was told.
    pub fn is_any(&self) -> bool {
        !self.running.is_empty()
    }

    /// Takes in that a worker does something of the job.
    pub fn saw(&mut self, worker: &str) {
        if self.workers.len() < 2 && self.workers.iter().all(|known| known != worker) {
            self.workers.push(worker.to_owned());
        }
    }

    /// When it was told the last time that any lease is worked on.
    pub fn told(&self) -> Option<Instant> {
        self.told
    }

    /// Who works on a group, as far as it was told.
    pub fn on(&self, stage: u32, group: u32, round: u32) -> Option<&Running> {
        self.running.get(&(stage, group, round))
    }

    /// The leases that have been worked on the longest, longest first.
    pub fn slowest(&self, count: usize) -> Vec<(Place, Running)> {
        let mut all: Vec<_> = self.running.iter().map(|(place, running)| (*place, running.clone())).collect();
        all.sort_by_key(|(place, running)| (running.since, *place));
        all.truncate(count);
        all
    }

    /// Forgets the leases that are committed.
    pub fn forget_done(&mut self, progress: &Progress) {
        self.running.retain(|(stage, group, round), _| !progress.knows(*stage, *group, *round));
    }

    /// The leases that are to be begun a second time now.
    pub fn overdue(&self, progress: &mut Progress, now: Instant) -> Vec<LeaseSpec> {
        if self.workers.len() < 2 {
            return Vec::new();
        }
        let mut typical: BTreeMap<u32, Option<Duration>> = BTreeMap::new();
        let mut specs = Vec::new();
        for ((stage, group, round), running) in &self.running {
            let took = now.saturating_duration_since(running.since);
            if took <= self.least {
                continue;
            }
            let typical = *typical.entry(*stage).or_insert_with(|| progress.typical(*stage));
            let leased = progress.lease(*stage, *group, *round);
            let Some((typical, leased)) = typical.zip(leased) else { continue };
            let tasks = u32::try_from(leased.spec.tasks.len()).unwrap_or(u32::MAX);
            // So many times one task's time, where several run at once.
            let times = tasks.div_ceil(running.width);
            if took > typical.saturating_mul(FACTOR).saturating_mul(times) {
                specs.extend(progress.begin_second(*stage, *group, *round));
            }
        }
        specs
    }
}

/// What sets a lease apart that takes a while, of whose tasks `width` may run at once: `bytes` of input where
/// others have `mean` for each task, and why the attempt before failed, if it did.
pub fn why(
    spec: &LeaseSpec,
    width: u32,
    bytes: Option<u64>,
    mean: u64,
    failed: Option<ErrorKind>,
    second: bool,
) -> String {
    let mut reasons = Vec::new();
    if spec.tasks.len() > 1 {
        let how = if width > 1 { format!("{width} at once") } else { "one after the other".to_owned() };
        reasons.push(format!("{} tasks {how}", spec.tasks.len()));
    }
    let usual = mean.saturating_mul(spec.tasks.len() as u64).max(1);
    if let Some(times) = bytes.map(|bytes| bytes / usual).filter(|times| *times >= u64::from(FACTOR)) {
        reasons.push(format!("{times} times the input of others"));
    }
    if !spec.states.is_empty() {
        reasons.push(format!("merges {} states", spec.states.len()));
    }
    if let Some(code) = failed {
        reasons.push(format!("attempt {}, after {code}", spec.round + 1));
    }
    if second {
        reasons.push("a second attempt runs beside it".to_owned());
    }
    if reasons.is_empty() {
        let known = if bytes.is_some() { "no more input than others" } else { "no reason that is known" };
        reasons.push(known.to_owned());
    }
    reasons.join("; ")
}

#[cfg(test)]
mod tests {
    use fanfold_protocol::{
        commit::{Commit, TaskCommit, TaskOutcome},
        digest::Digest,
        invocation::Usage,
        plan::{GROUP_BYTES_TARGET, Plan, Shape, Weight},
    };
    use uuid::Uuid;

    use super::*;
    use crate::jobs::progress::policy::Policy;

    const LEAST: Duration = Duration::from_millis(100);
    const WALL: Duration = Duration::from_secs(10);

    /// Eight leases of one task each, of which `done` took [`WALL`].
    fn progress(done: u32, width: u32) -> Progress {
        let plan = Plan::lay_out(
            Uuid::nil(),
            Digest::of(b""),
            Shape::Map,
            &[Weight { bytes: GROUP_BYTES_TARGET, document: 0 }; 8],
        );
        let policy = Policy { attempts: 3, outstanding_max: u32::MAX, leases_max: width, tolerated: 0 };
        let mut progress = Progress::new(plan, policy);
        progress.release();
        for group in 0..done {
            let usage = Usage { wall_us: 10_000_000, ..Usage::default() };
            let outcome = TaskOutcome::Table(None);
            let task = TaskCommit { index: group, attempt: 1, outcome, usage, looked_outside: false };
            progress.absorb(Commit {
                job: Uuid::nil(),
                stage: 0,
                group,
                round: 0,
                attempt: Uuid::nil(),
                worker: "test".into(),
                tasks: vec![task],
            });
            progress.release();
        }
        progress
    }

    fn overdue(progress: &mut Progress, running: Duration, at: (u32, u32)) -> Vec<u32> {
        let (now, mut stragglers) = (Instant::now(), Stragglers::new(LEAST));
        let begun = now + Duration::from_secs(3_600);
        let (job, worker) = (Uuid::nil(), "slow".to_owned());
        let (group, round) = at;
        let notice =
            RunningNotice { job, stage: 0, group, round, worker, running_ms: 0, ..RunningNotice::default() };
        stragglers.note(notice, begun);
        stragglers.saw("slow");
        assert!(stragglers.overdue(progress, begun + running).is_empty(), "it is the only worker");
        stragglers.saw("test");
        stragglers.overdue(progress, begun + running).into_iter().map(|spec| spec.group).collect()
    }

    #[test]
    fn twice_the_time_of_three_quarters_is_too_long() {
        let check = |done, running, at, expected: &[u32]| {
            assert_eq!(overdue(&mut progress(done, 8), running, at), expected, "{done} {running:?}");
        };
        let long = 2 * WALL + Duration::from_millis(1);
        check(6, long, (7, 0), &[7]);
        check(6, 2 * WALL, (7, 0), &[]);
        // Three quarters are not done yet.
        check(5, long, (7, 0), &[]);
        // Done already, and a round that is not open.
        check(6, long, (0, 0), &[]);
        check(6, long, (7, 1), &[]);
    }

    #[test]
    fn a_lease_is_begun_a_second_time_once_and_one_beyond_the_width() {
        let long = 3 * WALL;
        let mut narrow = progress(6, 2);
        assert_eq!(overdue(&mut narrow, long, (7, 0)), [7]);
        assert_eq!(overdue(&mut narrow, long, (6, 0)), [0; 0]);
        let mut wide = progress(6, 3);
        assert_eq!(overdue(&mut wide, long, (7, 0)), [7]);
        assert_eq!(overdue(&mut wide, long, (7, 0)), [0; 0]);
        assert_eq!(overdue(&mut wide, long, (6, 0)), [0; 0]);
        assert_eq!((wide.second_attempts(), wide.counts().running), (1, 2));
    }

    #[test]
    fn a_lease_whose_tasks_run_at_once_is_overdue_sooner() {
        let weights = [Weight { bytes: 1, document: 0 }; 1_024];
        let check = |width, running: Duration, expected: bool| {
            let plan = Plan::lay_out(Uuid::nil(), Digest::of(b""), Shape::Map, &weights);
            let policy =
                Policy { attempts: 3, outstanding_max: u32::MAX, leases_max: u32::MAX, tolerated: 0 };
            let mut progress = Progress::new(plan, policy);
            let specs = progress.release();
            let (last, done) = specs.split_last().unwrap();
            assert_eq!(last.tasks.len(), 8);
            for spec in done {
                let usage = Usage { wall_us: 10_000_000, ..Usage::default() };
                let task = |index: &u32| {
                    let (index, outcome) = (*index, TaskOutcome::Table(None));
                    TaskCommit { index, attempt: 1, outcome, usage, looked_outside: false }
                };
                progress.absorb(Commit {
                    job: Uuid::nil(),
                    stage: 0,
                    group: spec.group,
                    round: 0,
                    attempt: Uuid::nil(),
                    worker: "test".into(),
                    tasks: spec.tasks.iter().map(task).collect(),
                });
            }
            let (now, mut stragglers) = (Instant::now(), Stragglers::new(LEAST));
            stragglers.saw("test");
            let (group, worker) = (last.group, "slow".to_owned());
            stragglers.note(RunningNotice { group, worker, width, ..RunningNotice::default() }, now);
            let overdue = stragglers.overdue(&mut progress, now + running);
            assert_eq!(overdue.len(), usize::from(expected), "{width} {running:?}");
        };
        let more = Duration::from_millis(1);
        // A worker of an earlier release does not say it.
        for width in [0, 1] {
            check(width, 16 * WALL, false);
            check(width, 16 * WALL + more, true);
        }
        check(4, 4 * WALL, false);
        check(4, 4 * WALL + more, true);
        check(3, 6 * WALL, false);
    }

    #[test]
    fn what_sets_a_lease_apart_is_said() {
        let spec = |tasks: &[u32], round| LeaseSpec {
            stage: 0,
            group: 0,
            round,
            tasks: tasks.to_vec(),
            states: Vec::new(),
        };
        assert_eq!(why(&spec(&[1], 0), 1, Some(150), 100, None, false), "no more input than others");
        assert_eq!(why(&spec(&[1], 0), 4, None, 100, None, false), "no reason that is known");
        assert_eq!(why(&spec(&[1, 2], 0), 1, Some(300), 100, None, false), "2 tasks one after the other");
        assert_eq!(why(&spec(&[1, 2], 0), 4, Some(300), 100, None, false), "2 tasks 4 at once");
        assert_eq!(
            why(&spec(&[1], 1), 1, Some(730), 100, Some(ErrorKind::GuestTrapped), true),
            "7 times the input of others; attempt 2, after guest-trapped; a second attempt runs beside it"
        );
    }

    #[test]
    fn a_lease_is_forgotten_with_the_attempt_that_was_told_of() {
        let notice = |worker: &str, group: u32| RunningNotice {
            job: Uuid::nil(),
            stage: 0,
            group,
            round: 0,
            worker: worker.to_owned(),
            running_ms: 500,
            ..RunningNotice::default()
        };
        let mut stragglers = Stragglers::new(LEAST);
        stragglers.note(notice("first", 7), Instant::now());
        for other in [notice("second", 7), notice("first", 8)] {
            stragglers.forget(&other);
            assert!(stragglers.is_any(), "{other:?}");
        }
        stragglers.forget(&notice("first", 7));
        assert!(!stragglers.is_any());
    }

    #[test]
    fn of_two_attempts_the_older_one_counts() {
        let (now, mut stragglers) = (Instant::now() + WALL, Stragglers::new(LEAST));
        for (running_ms, done) in [(200, None), (9_000, Some(3)), (100, None)] {
            let (job, worker) = (Uuid::nil(), "slow".to_owned());
            let progress = done.map(|done| invocation::Progress { done, total: None });
            let group = 7;
            let notice =
                RunningNotice { job, group, worker, running_ms, progress, ..RunningNotice::default() };
            stragglers.note(notice, now);
        }
        let running = stragglers.on(0, 7, 0).unwrap();
        assert_eq!(now - running.since, Duration::from_secs(9));
        assert_eq!(running.progress, Some(invocation::Progress { done: 3, total: None }));
    }
}
