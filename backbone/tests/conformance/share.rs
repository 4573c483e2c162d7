// SPDX-License-Identifier: Apache-2.0
//! Conformance of scopes, and of pulling from the queues of several.

use std::sync::Arc;
use std::time::Duration;

use fanfold_backbone::{Backbone, Change, Error, Event, Message, Share};
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use super::fresh;

const WAIT: Duration = Duration::from_secs(20);
const NO_WAIT: Duration = Duration::from_millis(50);
const LEASE: Duration = Duration::from_secs(30);
const QUEUE: &str = "work";

fn scopes(b: &Backbone, names: &[&str]) -> Vec<Backbone> {
    let under = fresh("scope");
    names.iter().map(|name| b.scoped(&format!("{under}/")).scoped(&format!("{name}/"))).collect()
}

/// Members of these weights, whose number comes along.
fn share(scopes: &[Backbone], weights: &[u32]) -> Arc<Share<usize>> {
    let share = Share::new(QUEUE, LEASE);
    let member =
        |(at, (scope, weight)): (usize, (&Backbone, &u32))| (at.to_string(), *weight, scope.clone(), at);
    share.set(scopes.iter().zip(weights).enumerate().map(member));
    Arc::new(share)
}

async fn fill(scope: &Backbone, count: usize) {
    let messages = (0..count).map(|n| Message::new(n.to_string(), n.to_string())).collect();
    assert_eq!(scope.enqueue(QUEUE, messages).await.unwrap().accepted, count);
}

pub(crate) async fn keeps_scopes_apart(b: &Backbone) {
    let both = scopes(b, &["one", "other"]);
    let (one, other) = (&both[0], &both[1]);
    let mut watch = one.watch("a/").await.unwrap();
    let mut events = one.subscribe("jobs.*.told").await.unwrap();
    for n in 0..5 {
        one.put(&format!("a/{n}"), "one").await.unwrap();
    }
    other.put("a/1", "other").await.unwrap();
    other.publish("jobs.x.told", "other").await.unwrap();
    one.publish("jobs.x.told", "one").await.unwrap();
    assert_eq!(one.get("a/1").await.unwrap().unwrap().value, "one");
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = one.list_page("", after.as_deref(), 2).await.unwrap();
        keys.extend(page.entries.into_iter().map(|(key, _)| key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(keys, ["a/0", "a/1", "a/2", "a/3", "a/4"]);
    assert_eq!(other.list("").await.unwrap().len(), 1);
    let mut seen = Vec::new();
    while seen.len() < 5 {
        match timeout(WAIT, watch.next()).await.unwrap().unwrap() {
            Change::Put { key, entry } => {
                assert_eq!(entry.value, "one");
                seen.push(key);
            }
            Change::Synced => {}
            Change::Delete { .. } => panic!("nothing was deleted"),
        }
    }
    assert_eq!(seen, keys);
    let heard = timeout(WAIT, events.next()).await.unwrap().unwrap();
    assert_eq!(heard, Event::Published { subject: "jobs.x.told".into(), payload: "one".into() });
    fill(one, 1).await;
    assert!(other.pull(QUEUE, 1, NO_WAIT, LEASE).await.unwrap().is_empty());
    let delivery = one.pull(QUEUE, 1, WAIT, LEASE).await.unwrap().pop().unwrap();
    delivery.dead("because").await.unwrap();
    assert_eq!((one.depth(QUEUE).await.unwrap().dead, other.depth(QUEUE).await.unwrap().dead), (1, 0));
    let letter = one.dead_letters(QUEUE, 0, 9).await.unwrap().pop().unwrap();
    assert_eq!(other.discard(QUEUE, vec![letter.sequence]).await.unwrap(), 0);
    assert_eq!(one.replay(QUEUE, vec![letter.sequence]).await.unwrap(), 1);
    assert!(one.get("").await.is_err() && one.list("/").await.is_err());
}

pub(crate) async fn serves_whoever_had_less(b: &Backbone) {
    let scopes = scopes(b, &["loud", "quiet", "idle"]);
    let share = share(&scopes, &[1, 1, 1]);
    fill(&scopes[0], 300).await;
    fill(&scopes[1], 3).await;
    let (mut order, mut pulls) = (Vec::new(), 0);
    while order.iter().filter(|member| **member == 1).count() < 3 {
        pulls += 1;
        assert!(pulls <= 60, "the quiet one waits: {order:?}");
        for shared in share.pull(WAIT, |_| 1).await.unwrap() {
            shared.spend(sleep(Duration::from_millis(5))).await;
            shared.delivery.ack().await.unwrap();
            order.push(shared.what);
        }
    }
    // What one costs is known from its first service on, so they take turns but for the first few.
    assert!(order.len() <= 12, "{order:?}");
    // No turn is left unused by those that have nothing.
    for _ in 0..20 {
        let shared = share.pull(WAIT, |_| 1).await.unwrap().pop().unwrap();
        shared.delivery.ack().await.unwrap();
        assert_eq!(shared.what, 0);
    }
    // Whoever has no room is passed over.
    assert!(share.pull(NO_WAIT, |member| usize::from(*member == 2)).await.unwrap().is_empty());
}

pub(crate) async fn waits_at_all_and_takes_from_one(b: &Backbone) {
    let scopes = scopes(b, &["a", "b", "c"]);
    let share = share(&scopes, &[1, 1, 1]);
    for (at, scope) in scopes.iter().enumerate().cycle().take(6) {
        let (waiting, begun) = (Arc::clone(&share), std::time::Instant::now());
        let waiting = tokio::spawn(async move { waiting.pull(WAIT, |_| 1).await.unwrap() });
        sleep(NO_WAIT).await;
        scope.enqueue(QUEUE, vec![Message::new(begun.elapsed().as_nanos().to_string(), "x")]).await.unwrap();
        let shared = timeout(WAIT, waiting).await.unwrap().unwrap().pop().unwrap();
        // What the waits before were withdrawn from was not delivered to them.
        assert_eq!((shared.what, shared.delivery.attempt), (at, 1));
        shared.delivery.ack().await.unwrap();
    }
    // Members that come are waited for at once.
    let begun = std::time::Instant::now();
    let late = self::scopes(b, &["late"]);
    fill(&late[0], 1).await;
    let waiting = Arc::clone(&share);
    let waiting = tokio::spawn(async move { waiting.pull(WAIT, |_| 1).await.unwrap() });
    sleep(NO_WAIT).await;
    share.set([("late".to_owned(), 1, late[0].clone(), 9)]);
    let mut found = timeout(WAIT, waiting).await.unwrap().unwrap();
    if found.is_empty() {
        found = share.pull(WAIT, |_| 1).await.unwrap();
    }
    assert_eq!(found.pop().unwrap().what, 9);
    assert!(begun.elapsed() < WAIT);
}

pub(crate) async fn goes_on_past_what_cannot_be_pulled(b: &Backbone) {
    let mut scopes = scopes(b, &["one", "other"]);
    // No queue's name begins so. Of equals the first comes first, so that it is asked before the others.
    scopes.insert(0, b.scoped("//"));
    let share = share(&scopes, &[1, 1, 1]);
    fill(&scopes[1], 5).await;
    fill(&scopes[2], 5).await;
    let mut found = Vec::new();
    for _ in 0..10 {
        let shared = share.pull(WAIT, |_| 1).await.unwrap().pop().unwrap();
        shared.delivery.ack().await.unwrap();
        found.push(shared.what);
    }
    found.sort_unstable();
    assert_eq!(found, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
    // The others are waited at meanwhile, however often it fails.
    let waiting = Arc::clone(&share);
    let waiting = tokio::spawn(async move { waiting.pull(WAIT, |_| 1).await.unwrap() });
    sleep(10 * NO_WAIT).await;
    scopes[1].enqueue(QUEUE, vec![Message::new("late", "x")]).await.unwrap();
    let shared = timeout(WAIT, waiting).await.unwrap().unwrap().pop().unwrap();
    assert_eq!(shared.what, 1);
    shared.delivery.ack().await.unwrap();
    // Where it is the only one with room, and so all of them, that is told.
    for _ in 0..2 {
        let told = share.pull(WAIT, |member| usize::from(*member == 0)).await.err();
        assert!(matches!(told, Some(Error::InvalidKey { .. })), "{told:?}");
    }
}
