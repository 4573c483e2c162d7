// SPDX-License-Identifier: Apache-2.0
//! Which states, and which words of failures, are held while commits come in whatever order.

use super::*;
use crate::jobs::progress::outcomes::why;

/// States that are held.
fn states(progress: &Progress) -> usize {
    let products = progress.stages().iter().flat_map(Stage::tasks).filter_map(|slot| slot.product.as_deref());
    products.filter(|product| product.state().is_some()).count()
}

#[test]
fn what_was_merged_is_not_held_where_later_stages_come_first() {
    let plan = plan(Shape::MapAggregate, &[1; 160]);
    let mut commits = history(&plan, |_, _| None);
    commits.sort_by_key(|commit| std::cmp::Reverse(commit.stage));
    let mut progress = Progress::new(plan.clone(), POLICY);
    for commit in commits.clone() {
        progress.absorb(commit);
        assert_eq!(states(&progress), 0);
    }
    assert!(progress.is_complete() && progress.tables().count() == 160);
    assert_eq!(answer(&progress), answer(&run(&plan, &[0], 1, |_, _| None)));
    // What the next stage waits for is held, whatever the order is.
    commits.retain(|commit| commit.stage < 2 && (commit.stage, commit.group) != (1, 3));
    for backwards in [false, true] {
        let mut progress = Progress::new(plan.clone(), POLICY);
        let order: Vec<_> = if backwards { commits.iter().rev().collect() } else { commits.iter().collect() };
        order.into_iter().for_each(|commit| drop(progress.absorb(commit.clone())));
        assert_eq!(states(&progress), 9 + 16, "{backwards}");
        let leased = progress.release();
        assert_eq!(leased.iter().map(|spec| (spec.stage, spec.group)).collect::<Vec<_>>(), [(1, 3)]);
        assert_eq!(leased[0].states.len(), 16);
    }
}

#[test]
fn whoever_only_shows_tasks_holds_no_states() {
    for shape in [Shape::MapAggregate, Shape::MapGroup] {
        let plan = plan(shape, &[1; 100]);
        let mut progress = Progress::to_show(plan.clone(), POLICY);
        for commit in history(&plan, |_, _| None).into_iter().filter(|commit| commit.stage == 0) {
            progress.absorb(commit);
            assert_eq!(states(&progress), 0, "{shape:?}");
        }
        assert_eq!(progress.counts().done, 100);
        let tables = if shape == Shape::MapAggregate { 100 } else { 0 };
        assert_eq!(progress.tables().count(), tables);
    }
}

#[test]
fn of_a_failure_the_kind_is_held_and_the_commit_that_has_the_words() {
    const TASKS: u32 = 100;
    let plan = plan(Shape::Map, &[1; TASKS as usize]);
    // A wrong table is not tried again; a trap is.
    let fails = |task: u32, round: u32| {
        let code = if task.is_multiple_of(3) { ErrorKind::CsvMalformed } else { ErrorKind::GuestTrapped };
        Some(Problem::new(code, format!("words about {task} in {round}")))
    };
    let commits = history_of(&plan, &fails);
    for backwards in [false, true] {
        let mut progress = Progress::new(plan.clone(), Policy { tolerated: u64::from(TASKS), ..POLICY });
        let order: Vec<_> =
            if backwards { commits.values().rev().collect() } else { commits.values().collect() };
        order.into_iter().for_each(|commit| drop(progress.absorb(commit.clone())));
        assert!(progress.is_complete(), "{backwards}");
        assert!(!format!("{progress:?}").contains("words about"), "{backwards}");
        for failure in progress.dead() {
            let (place, task) = failure.place();
            let round = if task.is_multiple_of(3) { 0 } else { 2 };
            assert_eq!((place.2, failure.attempts), (round, round + 1));
            let problem = why(&commits[&place], task);
            assert_eq!((Some(&problem), problem.code), (fails(task, round).as_ref(), failure.code));
        }
        let dead: Vec<_> = progress.dead().map(|failure| failure.task).collect();
        assert_eq!(dead, (0..TASKS).collect::<Vec<_>>(), "{backwards}");
    }
}

/// The commits of a job of which the tasks that `fails` names fail, by their places.
fn history_of(plan: &Plan, fails: &impl Fn(u32, u32) -> Option<Problem>) -> BTreeMap<Place, Commit> {
    let mut progress = Progress::new(plan.clone(), Policy { tolerated: plan.tasks(), ..POLICY });
    let (mut leased, mut commits) = (progress.release(), BTreeMap::new());
    while let Some(spec) = leased.pop() {
        let commit = commit(plan, &spec, fails);
        commits.insert((spec.stage, spec.group, spec.round), commit.clone());
        progress.absorb(commit);
        leased.extend(progress.release());
    }
    commits
}

#[test]
fn a_commit_says_again_why_a_task_failed() {
    let plan = plan(Shape::Map, &[1; 3]);
    let mut progress = Progress::new(plan.clone(), POLICY);
    let leased = progress.release();
    let mut commit = commit(&plan, &leased[0], |task, _| (task == 0).then(|| crash(ErrorKind::GuestTrapped)));
    // Of another kind, and not named.
    commit.tasks[1].outcome = TaskOutcome::State(StateRef::Inline("x".to_owned()));
    commit.tasks.truncate(2);
    let failures = progress.absorb(commit.clone());
    assert_eq!(failures.len(), 3);
    for failed in failures {
        let held = progress.failure(0, failed.task).unwrap();
        assert_eq!((held.code, held.attempts), (failed.problem.code, failed.attempt));
        assert_eq!(why(&commit, failed.task), failed.problem);
    }
    assert!(progress.failure(0, 3).is_none() && progress.failure(1, 0).is_none());
}
