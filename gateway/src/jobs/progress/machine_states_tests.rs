// SPDX-License-Identifier: Apache-2.0
//! Which states are held while commits come in whatever order.

use super::*;

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
