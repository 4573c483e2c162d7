// SPDX-License-Identifier: Apache-2.0
//! What is the same as before, what is not, and in how little room that is told.

use fanfold_protocol::{
    digest::Digest,
    plan::{ByteRange, Plan, Shape, Slice, Weight},
    uri::{Pin, PinnedObject},
};
use futures::{executor::block_on, stream};
use uuid::Uuid;

use super::*;

fn slice(name: &str, etag: &str, bytes: Option<ByteRange>) -> Slice {
    let uri = ObjectUri::new("bank", name).unwrap();
    let pin = Pin { etag: etag.into(), size: 9, version_id: None };
    Slice { object: PinnedObject { uri, pin }, bytes, row_groups: None }
}

fn whole(name: &str, etag: &str) -> Partition {
    Partition { slices: vec![slice(name, etag, None)] }
}

fn before(partitions: &[Partition]) -> Before {
    block_on(Before::read(stream::iter(partitions.iter().cloned().map(Ok)))).unwrap()
}

/// So many tasks, of which these are done and those failed.
fn traces(tasks: usize, done: &[u32], failed: &[u32]) -> Traces {
    let weights = vec![Weight::default(); tasks];
    let mut traces = Traces::new(&Plan::lay_out(Uuid::nil(), Digest::of(b""), Shape::Map, &weights));
    done.iter().for_each(|task| traces.note((0, *task), 0, Came::Product, false));
    failed.iter().for_each(|task| traces.note((0, *task), 0, Came::Failed, false));
    traces
}

fn compare(earlier: &[Partition], traces: Option<&Traces>, now: &[Partition]) -> Comparison {
    let before = before(earlier);
    let mut comparing = Comparing::new(&before, traces);
    now.iter().for_each(|partition| comparing.take(partition).unwrap());
    earlier.iter().for_each(|partition| comparing.look_back(partition));
    comparing.finish()
}

#[test]
fn each_partition_is_one_of_five() {
    let before: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| whole(name, "1")).into();
    let now = [whole("0", "1"), whole("a", "1"), whole("b", "2"), whole("c", "1"), whole("d", "1")];
    let compared = compare(&before, Some(&traces(5, &[0, 1], &[2])), &now);
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
    assert_eq!(compared.differing[0].before, Some(2), "where its problem is found");
    let all = traces(5, &[0, 1, 2, 3, 4], &[]);
    assert!(compare(&before, Some(&all), &before).difference.is_nothing());
    // Where what came before is of no use, all is run.
    assert_eq!(
        compare(&before, None, &before).difference,
        Difference { unfinished: 5, ..Difference::default() }
    );
}

#[test]
fn an_object_cut_otherwise_is_run_again_and_its_parts_vanish_once() {
    let part = |start, end| Partition { slices: vec![slice("a", "1", Some(ByteRange { start, end }))] };
    let before = [part(0, 4), part(4, 9), whole("b", "1")];
    let traces = traces(3, &[0, 1, 2], &[]);
    let compared = compare(&before, Some(&traces), &[part(0, 4), part(4, 6), part(6, 9)]);
    let expected = Difference { unchanged: 1, changed: 2, vanished: 1, ..Difference::default() };
    assert_eq!(compared.difference, expected);
    let compared = compare(&before, Some(&traces), &[whole("b", "1")]);
    assert_eq!(compared.difference, Difference { unchanged: 1, vanished: 1, ..Difference::default() });
}

#[test]
fn what_is_not_told_is_counted() {
    let many = limits::DIFFERENCES_TOLD_MAX as u64 + 50;
    let of = |etag: &str| (0..many).map(|n| whole(&format!("{n:05}"), etag)).collect::<Vec<_>>();
    let (old, new) = (of("1"), of("2"));
    let compared = compare(&old, None, &new);
    assert_eq!(compared.difference, Difference { changed: many, ..Difference::default() });
    assert_eq!(compared.differing.len(), limits::DIFFERENCES_TOLD_MAX);
    let compared = compare(&old, None, &new[..20]);
    assert_eq!(compared.difference, Difference { changed: 20, vanished: many - 20, ..Difference::default() });
    assert_eq!(compared.differing.len(), limits::DIFFERENCES_TOLD_MAX);
    assert_eq!(compared.differing[20].input[0].key(), "00020", "in the order of the plan");
}

#[test]
fn two_hundred_thousand_partitions_are_compared_in_little_room() {
    const MANY: usize = 200_000;
    let name = |n: usize| format!("transactions/country=de/year=2026/month=07/day=13/part-{n:07}.parquet");
    let etag = "9b2cf535f27731c974343645a3985328";
    let before = block_on(Before::read(stream::iter((0..MANY).map(|n| Ok(whole(&name(n), etag)))))).unwrap();
    // All but every hundredth is done.
    let failed: Vec<u32> = (0..MANY as u32).step_by(100).collect();
    let done: Vec<u32> = (0..MANY as u32).filter(|task| task % 100 > 0).collect();
    let traces = traces(MANY, &done, &failed);
    let mut comparing = Comparing::new(&before, Some(&traces));
    for n in 0..MANY {
        comparing.take(&whole(&name(n), etag)).unwrap();
    }
    let held = before.bytes() + traces.bytes() + comparing.bytes();
    // A million of them are less than a tenth of a GiB.
    assert!(held <= 90 * MANY, "{} bytes a partition", held / MANY);
    let expected = Difference { unchanged: 198_000, failed: 2_000, ..Difference::default() };
    assert_eq!(comparing.finish().difference, expected);
}
