// SPDX-License-Identifier: Apache-2.0
//! What is the same as before, and how groups part.

use fanfold_protocol::{
    plan::{ByteRange, Slice},
    uri::PinnedObject,
};

use super::*;

fn slice(name: &str, etag: &str, bytes: Option<ByteRange>) -> Slice {
    let uri = ObjectUri::new("bank", name).unwrap();
    let pin = fanfold_protocol::uri::Pin { etag: etag.into(), size: 9, version_id: None };
    Slice { object: PinnedObject { uri, pin }, bytes, row_groups: None }
}

fn whole(name: &str, etag: &str) -> Partition {
    Partition { slices: vec![slice(name, etag, None)] }
}

fn left(done: &[u32], failed: &[u32]) -> Left {
    let problem = Problem::new(ErrorKind::GuestPanicked, "test");
    let mut left = Left::default();
    left.products.extend(done.iter().map(|task| (*task, TaskOutcome::Table(None))));
    left.problems.extend(failed.iter().map(|task| (*task, problem.clone())));
    left
}

#[test]
fn each_partition_is_one_of_five() {
    let before: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| whole(name, "1")).into();
    let now = [whole("0", "1"), whole("a", "1"), whole("b", "2"), whole("c", "1"), whole("d", "1")];
    let compared = compare(&before, &left(&[0, 1], &[2]), &now);
    let expected = Difference { unchanged: 1, failed: 1, unfinished: 1, changed: 1, added: 1, vanished: 1 };
    assert_eq!((compared.difference, compared.difference.run()), (expected, 4));
    assert_eq!(compared.taken, [false, true, false, false, false]);
    let told: Vec<_> =
        compared.differing.iter().map(|d| (d.change, d.task, d.input[0].key().to_owned())).collect();
    let told: Vec<_> = told.iter().map(|(change, task, key)| (*change, *task, key.as_str())).collect();
    assert_eq!(
        told,
        [
            (Change::Failed, Some(3), "c"),
            (Change::Unfinished, Some(4), "d"),
            (Change::Changed, Some(2), "b"),
            (Change::Added, Some(0), "0"),
            (Change::Vanished, None, "e"),
        ]
    );
    assert!(compare(&before, &left(&[0, 1, 2, 3, 4], &[]), &before).difference.is_nothing());
}

#[test]
fn an_object_cut_otherwise_is_run_again_and_its_parts_vanish_once() {
    let part = |start, end| Partition { slices: vec![slice("a", "1", Some(ByteRange { start, end }))] };
    let before = [part(0, 4), part(4, 9), whole("b", "1")];
    let compared = compare(&before, &left(&[0, 1, 2], &[]), &[part(0, 4), part(4, 6), part(6, 9)]);
    let expected = Difference { unchanged: 1, changed: 2, vanished: 1, ..Difference::default() };
    assert_eq!(compared.difference, expected);
    let compared = compare(&before, &left(&[0, 1, 2], &[]), &[whole("b", "1")]);
    assert_eq!(compared.difference, Difference { unchanged: 1, vanished: 1, ..Difference::default() });
}

#[test]
fn groups_part_where_what_is_taken_over_meets_the_rest() {
    let check = |groups: &[u32], taken: &str, parted: &[u32]| {
        let taken: Vec<_> = taken.chars().map(|c| c == 'x').collect();
        assert_eq!(regroup(groups, &taken), parted);
    };
    check(&[3, 2], "xxxxx", &[3, 2]);
    check(&[3, 2], "x..x.", &[1, 2, 1, 1]);
    check(&[5], ".x.x.", &[1; 5]);
    check(&[], "", &[]);
}
