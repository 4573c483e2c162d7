// SPDX-License-Identifier: Apache-2.0
//! Any order, any number of copies, any retries: one fold.
//!
//! A worker is played by a function of the lease; schedules come from proptest.

#[path = "machine_states_tests.rs"]
mod states;

use std::collections::BTreeMap;

use fanfold_protocol::{
    ErrorKind, Problem,
    commit::AnswerRef,
    digest::Digest,
    plan::{GROUP_BYTES_TARGET, GROUP_TASKS_MAX, Shape, Weight},
    uri::ObjectUri,
};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const POLICY: Policy = Policy { attempts: 3, outstanding_max: 10_000, leases_max: u32::MAX, tolerated: 0 };

impl Progress {
    /// All leases that may be queued when no round waits.
    pub fn release(&mut self) -> Vec<LeaseSpec> {
        self.opened().into_iter().for_each(|place| self.resume(place));
        std::iter::from_fn(|| self.release_next()).collect()
    }
}

/// A plan in which small partitions share leases, as they do where there are many.
fn plan(shape: Shape, sizes: &[u64]) -> Plan {
    let weights: Vec<_> = sizes.iter().map(|bytes| Weight { bytes: *bytes, document: 200 }).collect();
    let mut plan = Plan::lay_out(Uuid::nil(), Digest::of(b""), shape, &weights);
    if sizes.iter().all(|bytes| *bytes < GROUP_BYTES_TARGET) {
        plan.groups = sizes.chunks(GROUP_TASKS_MAX as usize).map(|tasks| tasks.len() as u32).collect();
    }
    plan
}

/// A state says who was merged, in which order.
fn merged(spec: &LeaseSpec) -> String {
    let parts: Vec<_> = spec
        .states
        .iter()
        .map(|state| match state {
            StateRef::Inline(text) => text.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    format!("({})", parts.join(" "))
}

fn table(task: u32) -> OutputObject {
    let uri = ObjectUri::new("bank", format!("out/part-{task}")).unwrap();
    OutputObject { uri, size: 1, etag: "e".into(), rows: u64::from(task) }
}

/// The commit of a lease, with the tasks that `fails` names failed.
fn commit(plan: &Plan, spec: &LeaseSpec, fails: impl Fn(u32, u32) -> Option<Problem>) -> Commit {
    let outcome = |task: u32| match (fails(task, spec.round), plan.shape) {
        (Some(problem), _) => TaskOutcome::Failed(problem),
        (None, Shape::Map) => TaskOutcome::Table(Some(table(task))),
        (None, Shape::MapAggregate) if spec.stage == 0 => {
            TaskOutcome::Mapped { table: Some(table(task)), state: StateRef::Inline(task.to_string()) }
        }
        (None, Shape::Group | Shape::MapGroup) if spec.stage > 0 => TaskOutcome::Table(Some(table(task))),
        (None, Shape::Aggregate | Shape::Group | Shape::MapGroup) if spec.stage == 0 => {
            TaskOutcome::State(StateRef::Inline(task.to_string()))
        }
        (None, Shape::Aggregate | Shape::MapAggregate) if plan.finishes(spec.stage) => {
            let answer = serde_json::json!(merged(spec)).to_string();
            TaskOutcome::Answer(AnswerRef::Inline(answer.try_into().unwrap()))
        }
        (None, _) => TaskOutcome::State(StateRef::Inline(merged(spec))),
    };
    let usage = Usage { rows_in: 1, rows_out: 1, wall_us: 1, ..Usage::default() };
    let task = |task: &u32| TaskCommit {
        index: *task,
        attempt: spec.round + 1,
        outcome: outcome(*task),
        usage,
        looked_outside: false,
    };
    Commit {
        job: plan.job,
        stage: spec.stage,
        group: spec.group,
        round: spec.round,
        attempt: Uuid::nil(),
        worker: "test".into(),
        tasks: spec.tasks.iter().map(task).collect(),
    }
}

/// What follows from a commit.
#[derive(Debug)]
enum Action {
    Lease(LeaseSpec),
    Failed(FailedAttempt),
}

fn apply(progress: &mut Progress, commit: Commit) -> Vec<Action> {
    let failures: Vec<_> = progress.absorb(commit).into_iter().map(Action::Failed).collect();
    failures.into_iter().chain(progress.release().into_iter().map(Action::Lease)).collect()
}

fn crash(kind: ErrorKind) -> Problem {
    Problem::new(kind, "test")
}

/// Runs a job to its end: leases are committed in the order that `pick` says,
/// each told `copies` times. Answers what is left to compare.
fn run(plan: &Plan, seed: &[usize], copies: usize, fails: impl Fn(u32, u32) -> Option<Problem>) -> Progress {
    let mut progress = Progress::new(plan.clone(), POLICY);
    let mut leased = progress.release();
    let mut told = Vec::new();
    let mut step = 0;
    while !leased.is_empty() {
        let pick = seed.get(step % seed.len().max(1)).copied().unwrap_or(0) % leased.len();
        let spec = leased.swap_remove(pick);
        let commit = commit(plan, &spec, &fails);
        for _ in 0..copies {
            for action in apply(&mut progress, commit.clone()) {
                if let Action::Lease(spec) = action {
                    leased.push(spec);
                }
            }
        }
        told.push(commit);
        // An old notice comes again.
        let old = told[seed.get((step + 1) % seed.len().max(1)).copied().unwrap_or(0) % told.len()].clone();
        assert!(apply(&mut progress, old).is_empty());
        step += 1;
    }
    progress
}

fn answer(progress: &Progress) -> String {
    match progress.answer() {
        Some(AnswerRef::Inline(answer)) => serde_json::from_str(answer.as_str()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_map_is_done_when_its_tasks_are() {
    let plan = plan(Shape::Map, &[1; 100]);
    let progress = run(&plan, &[3, 1], 1, |_, _| None);
    assert!(progress.is_complete() && progress.given_up().is_none());
    assert_eq!(progress.tables().count(), 100);
    assert!(progress.tables().zip(0..).all(|(table, task)| table.rows == task));
    assert_eq!(progress.counts().done, 100);
    assert_eq!(progress.usage().1, 100);
}

#[test]
fn folds_merge_neighbours_in_order() {
    let plan = plan(Shape::Aggregate, &[1; 18]);
    let progress = run(&plan, &[0], 1, |_, _| None);
    assert_eq!(answer(&progress), "((0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15) (16 17))");
}

#[test]
fn a_fold_begins_before_its_stage_is_complete() {
    let plan = plan(Shape::Aggregate, &vec![GROUP_BYTES_TARGET; 32]);
    let mut progress = Progress::new(plan.clone(), POLICY);
    let leased = progress.release();
    let mut folds = Vec::new();
    for spec in &leased[..16] {
        folds.extend(apply(&mut progress, commit(&plan, spec, |_, _| None)));
    }
    assert!(matches!(&folds[..], [Action::Lease(LeaseSpec { stage: 1, group: 0, .. })]), "{folds:?}");
}

#[test]
fn only_what_failed_is_tried_again() {
    let plan = plan(Shape::Map, &[1; 10]);
    let mut progress = Progress::new(plan.clone(), POLICY);
    let leased = progress.release();
    let fails = |task, round| (task % 5 == 0 && round == 0).then(|| crash(ErrorKind::GuestTrapped));
    let actions = apply(&mut progress, commit(&plan, &leased[0], fails));
    let Some(Action::Lease(again)) = actions.last() else { panic!("{actions:?}") };
    assert_eq!((again.round, &again.tasks[..]), (1, &[0, 5][..]));
    assert_eq!(progress.counts().running, 2);
    apply(&mut progress, commit(&plan, again, fails));
    assert!(progress.is_complete());
    let (usage, attempts) = progress.usage();
    // Time is of all attempts, rows are of those that count.
    assert_eq!((attempts, usage.wall_us, usage.rows_in), (12, 12, 10));
    let more = Usage { rows_in: 3, wall_us: 3, ..Usage::default() };
    progress.note_overtaken(&Overtaken { attempt: Uuid::max(), tasks: 3, usage: more });
    assert_eq!((progress.usage().0.wall_us, progress.usage().0.rows_in), (15, 10));
    // Whatever is told of attempts that do not count, nothing follows from it.
    let most = Usage { wall_us: u64::MAX, ..Usage::default() };
    progress.note_overtaken(&Overtaken { attempt: Uuid::nil(), tasks: u64::MAX, usage: most });
    assert_eq!((progress.usage().0.wall_us, progress.usage().1), (u64::MAX, u64::MAX));
    assert_eq!(progress.committed_usage().wall_us, 12);
}

#[test]
fn a_task_is_given_up_after_its_attempts_or_when_trying_cannot_help() {
    let check = |kind, guest_retryable, attempts: Option<u32>| {
        let plan = plan(Shape::Map, &[1; 3]);
        let problem = Problem { guest_retryable, ..crash(kind) };
        let progress = run(&plan, &[0], 2, |task, _| (task == 1).then(|| problem.clone()));
        let found = progress.given_up().map(|given_up| (given_up.task, given_up.attempts));
        assert_eq!(found, attempts.map(|attempts| (1, attempts)), "{kind}");
        assert_eq!((progress.counts().failed, progress.is_complete()), (1, false));
    };
    check(ErrorKind::GuestPanicked, None, Some(3));
    check(ErrorKind::StoreTimeout, None, Some(3));
    check(ErrorKind::FunctionError, Some(true), Some(3));
    check(ErrorKind::FunctionError, Some(false), Some(1));
    check(ErrorKind::CsvFieldCount, None, Some(1));
    check(ErrorKind::ObjectChanged, None, Some(1));
}

/// A job of 20 tasks of which those before `bad` fail for good.
fn tolerating(shape: Shape, tolerated: u64, bad: u32) -> Progress {
    let plan = plan(shape, &[1; 20]);
    let mut progress = Progress::new(plan.clone(), Policy { tolerated, ..POLICY });
    let mut leased = progress.release();
    while let Some(spec) = leased.pop() {
        let fails = |task, _| (spec.stage == 0 && task < bad).then(|| crash(ErrorKind::CsvMalformed));
        for action in apply(&mut progress, commit(&plan, &spec, fails)) {
            if let Action::Lease(spec) = action {
                leased.push(spec);
            }
        }
    }
    progress
}

#[test]
fn failures_are_tolerated_up_to_their_bound() {
    let check = |shape, tolerated, bad| {
        let progress = tolerating(shape, tolerated, bad);
        let fits = u64::from(bad) <= tolerated;
        assert_eq!(
            (progress.is_complete(), progress.given_up().is_none()),
            (fits, fits),
            "{tolerated} {bad}"
        );
        let dead: Vec<_> = progress.dead().map(|given_up| given_up.task).collect();
        assert_eq!(dead, (0..bad).collect::<Vec<_>>());
        progress
    };
    check(Shape::Map, 0, 0);
    check(Shape::Map, 0, 1);
    assert_eq!(check(Shape::Map, 2, 2).tables().count(), 18);
    assert_eq!(check(Shape::Map, 2, 3).given_up().unwrap().task, 0);
    check(Shape::Map, 20, 20);
    let both = check(Shape::MapAggregate, 2, 2);
    assert_eq!((answer(&both), both.tables().count()), (answer(&check(Shape::Aggregate, 2, 2)), 18));
    let fold = "((2 3 4 5 6 7 8 9 10 11 12 13 14 15) (16 17 18 19))";
    assert_eq!(answer(&check(Shape::Aggregate, 2, 2)), fold);
    // Nothing is left of the first fold, which gives an empty state.
    assert_eq!(answer(&check(Shape::Aggregate, 16, 16)), "(() (16 17 18 19))");
}

#[test]
fn a_fold_that_fails_is_not_tolerated() {
    let plan = plan(Shape::Aggregate, &[1; 3]);
    let mut progress = Progress::new(plan.clone(), Policy { tolerated: 3, ..POLICY });
    let fails = |task, _| (task == 0).then(|| crash(ErrorKind::CsvMalformed));
    let leased = progress.release();
    let actions = apply(&mut progress, commit(&plan, &leased[0], fails));
    let Some(Action::Lease(fold)) = actions.last() else { panic!("{actions:?}") };
    apply(&mut progress, commit(&plan, fold, fails));
    let given_up = progress.given_up().unwrap();
    assert_eq!((given_up.stage, given_up.task, progress.is_complete()), (1, 0, false));
}

#[test]
fn no_more_is_leased_than_the_job_allows() {
    let plan = plan(Shape::Map, &[GROUP_BYTES_TARGET; 20]);
    let mut progress = Progress::new(plan.clone(), Policy { outstanding_max: 4, ..POLICY });
    let mut leased = progress.release();
    let mut done = 0;
    while let Some(spec) = leased.pop() {
        assert!(leased.len() < 4 && progress.counts().running <= 4);
        for action in apply(&mut progress, commit(&plan, &spec, |_, _| None)) {
            let Action::Lease(spec) = action else { panic!() };
            leased.push(spec);
        }
        done += 1;
    }
    assert_eq!(done, 20);
}

#[test]
fn a_lease_is_as_wide_as_one_task() {
    let plan = plan(Shape::Map, &[1; 3 * GROUP_TASKS_MAX as usize]);
    let mut progress = Progress::new(plan.clone(), Policy { leases_max: 2, ..POLICY });
    let leased = progress.release();
    assert_eq!(leased.len(), 2);
    let more = apply(&mut progress, commit(&plan, &leased[0], |_, _| None));
    assert!(matches!(&more[..], [Action::Lease(LeaseSpec { group: 2, .. })]), "{more:?}");
    assert!(progress.begin_second(0, 1, 0).is_some(), "one more goes beyond the width");
    assert!(apply(&mut progress, commit(&plan, &leased[1], |_, _| None)).is_empty());
}

#[test]
fn a_round_that_waits_takes_up_no_place() {
    let plan = plan(Shape::Map, &[GROUP_BYTES_TARGET; 3]);
    let mut progress = Progress::new(plan.clone(), Policy { leases_max: 1, ..POLICY });
    let leased = progress.release();
    let fails = |task, round| (task == 0 && round == 0).then(|| crash(ErrorKind::GuestTrapped));
    assert_eq!(progress.absorb(commit(&plan, &leased[0], fails)).len(), 1);
    let opened = progress.opened();
    assert_eq!(opened, [(0, 0, 1)]);
    assert_eq!((progress.counts().running, progress.counts().waiting), (0, 3));
    // Others go on meanwhile, and the round is leased once it may be and there is a place.
    let next = progress.release();
    assert_eq!(next.iter().map(|spec| spec.group).collect::<Vec<_>>(), [1]);
    progress.resume(opened[0]);
    assert!(progress.release().is_empty());
    let again = apply(&mut progress, commit(&plan, &next[0], fails));
    let [Action::Lease(again)] = &again[..] else { panic!("{again:?}") };
    assert_eq!((again.group, again.round), (0, 1));
    // What is committed meanwhile need not be leased again.
    let last = apply(&mut progress, commit(&plan, again, fails));
    assert!(matches!(&last[..], [Action::Lease(LeaseSpec { group: 2, .. })]), "{last:?}");
    progress.resume(opened[0]);
    assert!(progress.release().is_empty());
}

#[test]
fn a_product_of_the_wrong_kind_is_a_failure() {
    let (map, fold) = (plan(Shape::Map, &[1]), plan(Shape::Aggregate, &[1]));
    let mut progress = Progress::new(fold.clone(), POLICY);
    let leased = progress.release();
    let mut wrong = commit(&map, &leased[0], |_, _| None);
    let actions = apply(&mut progress, wrong.clone());
    assert!(
        matches!(&actions[..], [Action::Failed(FailedAttempt { given_up: false, .. }), Action::Lease(_)]),
        "{actions:?}"
    );
    (wrong.round, wrong.stage) = (1, 9);
    assert!(apply(&mut progress, wrong.clone()).is_empty());
    (wrong.stage, wrong.tasks) = (0, Vec::new());
    assert_eq!(apply(&mut progress, wrong).len(), 2);
}

#[test]
fn a_fold_that_failed_waits_for_children_that_are_found_after_it() {
    let plan = plan(Shape::Aggregate, &[GROUP_BYTES_TARGET; 16]);
    let fails = |_: u32, _: u32| Some(crash(ErrorKind::GuestTrapped));
    let mut first = Progress::new(plan.clone(), POLICY);
    let leased = first.release();
    let children: Vec<_> = leased.iter().map(|spec| commit(&plan, spec, |_, _| None)).collect();
    children.iter().for_each(|child| drop(first.absorb(child.clone())));
    let failed = commit(&plan, &first.release()[0], fails);
    // A listing has reached the one after it had gone past the other.
    let mut other = Progress::new(plan, POLICY);
    children.iter().skip(1).for_each(|child| drop(other.absorb(child.clone())));
    assert_eq!(other.absorb(failed).len(), 1);
    let leased = other.release();
    assert_eq!(leased.iter().map(|spec| (spec.stage, spec.group)).collect::<Vec<_>>(), [(0, 0)]);
    other.absorb(children[0].clone());
    let leased = other.release();
    let told = |spec: &LeaseSpec| (spec.stage, spec.round, spec.states.len());
    assert_eq!(leased.iter().map(told).collect::<Vec<_>>(), [(1, 1, 16)]);
}

/// Every commit of a job that some coordinator saw to its end.
fn history(plan: &Plan, fails: impl Fn(u32, u32) -> Option<Problem>) -> Vec<Commit> {
    let mut progress = Progress::new(plan.clone(), POLICY);
    let (mut leased, mut all) = (progress.release(), Vec::new());
    while let Some(spec) = leased.pop() {
        let commit = commit(plan, &spec, &fails);
        all.push(commit.clone());
        leased.extend(apply(&mut progress, commit).into_iter().filter_map(|action| match action {
            Action::Lease(spec) => Some(spec),
            Action::Failed(_) => None,
        }));
    }
    all
}

#[test]
fn reducers_read_of_every_task_in_order_whoever_was_first() {
    for seed in [&[0][..], &[3, 1, 2], &[7, 5, 0, 2]] {
        let mut plan = plan(Shape::Group, &[GROUP_BYTES_TARGET; 20]);
        plan.reduce_into(3);
        let progress = run(&plan, seed, 2, |task, round| {
            (task == 2 && round == 0).then(|| crash(ErrorKind::GuestTrapped))
        });
        assert!(progress.is_complete() && progress.answer().is_none());
        assert_eq!(progress.tables().map(|table| table.rows).collect::<Vec<_>>(), [0, 1, 2]);
        // What is shuffled is neither input nor output.
        let usage = progress.usage().0;
        assert_eq!((usage.rows_in, usage.rows_out), (20, 3));
        for reducer in 0..3 {
            let expected: Vec<_> = (0..20).map(|n: u32| StateRef::Inline(n.to_string())).collect();
            assert_eq!(progress.states_for(1, reducer), expected);
        }
    }
    // Without partitions every reducer has its turn at once.
    let mut plan = plan(Shape::MapGroup, &[]);
    plan.reduce_into(2);
    let progress = run(&plan, &[1], 1, |_, _| None);
    assert!(progress.is_complete() && progress.tables().count() == 2);
}

proptest! {
    #[test]
    fn the_fold_does_not_depend_on_the_schedule(
        tasks in 1..400usize,
        large in proptest::collection::vec(0..8usize, 0..40),
        seed in proptest::collection::vec(0..1_000usize, 1..50),
        copies in 1..4usize,
        bad in proptest::collection::vec((0..400u32, 0..2u32), 0..30),
    ) {
        let mut sizes = vec![1; tasks];
        for at in large {
            let len = sizes.len();
            sizes[at * 7 % len] = GROUP_BYTES_TARGET;
        }
        let plan = plan(Shape::Aggregate, &sizes);
        let plain = run(&plan, &[0], 1, |_, _| None);
        let fails = |task, round| bad.contains(&(task, round)).then(|| crash(ErrorKind::GuestTrapped));
        let wild = run(&plan, &seed, copies, fails);
        prop_assert!(wild.is_complete());
        prop_assert_eq!(answer(&plain), answer(&wild));
        prop_assert_eq!(plain.counts(), wild.counts());
    }

    #[test]
    fn a_rebuilt_state_goes_on_where_the_other_was(
        tasks in 1..300usize,
        order in proptest::collection::vec(0..10_000usize, 1..60),
        kept in 0..100usize,
        bad in proptest::collection::vec((0..300u32, 0..2u32), 0..20),
    ) {
        let plan = plan(Shape::Aggregate, &vec![GROUP_BYTES_TARGET / 3; tasks]);
        let fails = |task, round| bad.contains(&(task, round)).then(|| crash(ErrorKind::StoreTimeout));
        let mut commits = history(&plan, fails);
        let whole = run(&plan, &[0], 1, fails);
        // What had been committed when the coordinator died, in any order.
        commits.truncate((commits.len() * kept).div_ceil(100));
        let mut seen = BTreeMap::new();
        for (at, pick) in order.iter().enumerate() {
            let len = commits.len().max(1);
            if let Some(commit) = commits.get(pick % len) {
                seen.insert((at, pick), commit.clone());
            }
        }
        let mut progress = Progress::new(plan.clone(), POLICY);
        for commit in seen.into_values().chain(commits) {
            progress.absorb(commit);
        }
        let mut leased = progress.release();
        while let Some(spec) = leased.pop() {
            for action in apply(&mut progress, commit(&plan, &spec, fails)) {
                if let Action::Lease(spec) = action {
                    leased.push(spec);
                }
            }
        }
        prop_assert!(progress.is_complete());
        prop_assert_eq!(answer(&progress), answer(&whole));
        prop_assert_eq!(progress.usage(), whole.usage());
    }
}
