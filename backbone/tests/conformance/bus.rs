// SPDX-License-Identifier: Apache-2.0
//! Conformance of the event bus: wildcards, slow subscribers, the end.

use std::time::{Duration, Instant};

use fanfold_backbone::{Backbone, Error, Event, Subscription};
use futures::StreamExt;
use tokio::time::timeout;

use super::fresh;

const SOON: Duration = Duration::from_secs(20);

async fn next(subscription: &mut Subscription) -> Option<Event> {
    timeout(SOON, subscription.next()).await.unwrap()
}

pub(crate) async fn matches_wildcards(b: &Backbone) {
    let root = fresh("bus");
    let patterns = ["a.b", "a.*", "a.>", "*.b.c"];
    let mut subscriptions = Vec::new();
    for pattern in patterns {
        subscriptions.push(b.subscribe(&format!("{root}.{pattern}")).await.unwrap());
    }
    for subject in ["a", "a.b", "a.b.c", "x.b.c", "end"] {
        b.publish(&format!("{root}.{subject}"), subject).await.unwrap();
    }
    let expected: [&[&str]; 4] = [&["a.b"], &["a.b"], &["a.b", "a.b.c"], &["a.b.c", "x.b.c"]];
    for (subscription, expected) in subscriptions.iter_mut().zip(expected) {
        for subject in expected {
            let event = Event::Published {
                subject: format!("{root}.{subject}"),
                payload: (*subject).to_owned().into(),
            };
            assert_eq!(next(subscription).await, Some(event));
        }
        assert!(timeout(Duration::from_millis(20), subscription.next()).await.is_err());
    }
}

pub(crate) async fn tells_a_slow_subscriber(b: &Backbone) {
    let root = fresh("slow");
    let mut slow = b.subscribe(&format!("{root}.>")).await.unwrap();
    const EVENTS: u64 = 300;
    // Over a network events arrive by and by; once this one has the last of them, enough wait for the slow one.
    let mut quick = b.subscribe(&format!("{root}.{}", EVENTS - 1)).await.unwrap();
    let begun = Instant::now();
    for n in 0..EVENTS {
        b.publish(&format!("{root}.{n}"), vec![0; 200_000]).await.unwrap();
    }
    assert!(begun.elapsed() < SOON, "the publisher waited for the subscriber");
    next(&mut quick).await.unwrap();
    let (mut seen, mut lost, mut last) = (0, 0, None);
    while seen + lost < EVENTS {
        match next(&mut slow).await.unwrap() {
            Event::Lagged(count) => lost += count,
            Event::Published { subject, .. } => {
                seen += 1;
                last = Some(subject);
            }
        }
    }
    assert!(lost > 0 && seen > 0, "{lost} lost, {seen} seen");
    assert_eq!(last, Some(format!("{root}.{}", EVENTS - 1)));
}

pub(crate) async fn tells_that_it_listens(b: &Backbone) {
    let root = fresh("listens");
    let mut events = b.follow_subject(&format!("{root}.>"));
    assert_eq!(timeout(SOON, events.next()).await.unwrap(), Some(Event::Lagged(0)));
    let subject = format!("{root}.a");
    b.publish(&subject, "x").await.unwrap();
    let expected = Event::Published { subject, payload: "x".into() };
    assert_eq!(timeout(SOON, events.next()).await.unwrap(), Some(expected));
    b.close().await;
    assert_eq!(timeout(SOON, events.next()).await.unwrap(), None);
    assert_eq!(timeout(SOON, b.follow_subject(&root).next()).await.unwrap(), None);
}

pub(crate) async fn ends_with_the_backbone(b: &Backbone) {
    let pattern = format!("{}.>", fresh("end"));
    let (mut events, mut watch) = (b.subscribe(&pattern).await.unwrap(), b.watch("").await.unwrap());
    b.put("last", "x").await.unwrap();
    let waiting = {
        let b = b.clone();
        tokio::spawn(async move { b.pull("none", 1, Duration::from_secs(60), Duration::from_secs(1)).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    b.close().await;
    assert_eq!(next(&mut events).await, None);
    let changes = timeout(SOON, async move {
        let mut changes = 0;
        while watch.next().await.is_some() {
            changes += 1;
        }
        changes
    });
    assert!(changes.await.unwrap() >= 2);
    assert_eq!(waiting.await.unwrap().unwrap_err(), Error::Closed);
    assert_eq!(b.put("k", "x").await, Err(Error::Closed));
    assert_eq!(b.get("k").await, Err(Error::Closed));
    assert_eq!(b.publish("a", "x").await, Err(Error::Closed));
    assert_eq!(b.ping().await, Err(Error::Closed));
    assert_eq!(b.check_room().await, Err(Error::Closed));
}
