// SPDX-License-Identifier: Apache-2.0
//! Conformance of the work queue: leases, redelivery, delays, dedupe, dead letters, sharing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfold_backbone::queue::PAYLOAD_BYTES_MAX;
use fanfold_backbone::{Backbone, Delivery, Depth, Error, Message, Settled};
use tokio::time::sleep;

use super::{comes_to, fresh};

const WAIT: Duration = Duration::from_secs(20);
const NO_WAIT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(500);

fn messages(ids: impl IntoIterator<Item = impl ToString>) -> Vec<Message> {
    ids.into_iter().map(|id| Message::new(id.to_string(), format!("payload {}", id.to_string()))).collect()
}

async fn pull_one(b: &Backbone, queue: &str, lease: Duration) -> Delivery {
    b.pull(queue, 1, WAIT, lease).await.unwrap().pop().expect("a message within the wait")
}

async fn is_empty(b: &Backbone, queue: &str) -> bool {
    b.pull(queue, 1, NO_WAIT, LONG).await.unwrap().is_empty()
}

pub(crate) async fn delivers_in_order_of_arrival(b: &Backbone) {
    let queue = fresh("order");
    let enqueued = b.enqueue(&queue, messages(0..10)).await.unwrap();
    assert_eq!((enqueued.accepted, enqueued.duplicates), (10, 0));
    b.enqueue(&queue, messages(10..20)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 20 {
        let pulled = b.pull(&queue, 7, WAIT, LONG).await.unwrap();
        assert!((1..=7).contains(&pulled.len()));
        for delivery in pulled {
            assert_eq!(delivery.payload, format!("payload {}", delivery.id));
            assert_eq!((delivery.attempt, delivery.queue.as_str()), (1, queue.as_str()));
            seen.push(delivery.id.clone());
            assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
        }
    }
    assert_eq!(seen, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(is_empty(b, &queue).await);
    comes_to(b, &queue, |depth| depth == Depth::default()).await;
    let large = Message::new("large", vec![1; PAYLOAD_BYTES_MAX]);
    b.enqueue(&queue, vec![large]).await.unwrap();
    assert_eq!(pull_one(b, &queue, LONG).await.payload.len(), PAYLOAD_BYTES_MAX);
    let refused = b.enqueue(&queue, vec![Message::new("larger", vec![1; PAYLOAD_BYTES_MAX + 1])]).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
}

pub(crate) async fn drops_duplicates_in_a_batch_and_after_it(b: &Backbone) {
    let queue = fresh("dedupe");
    let enqueued = b.enqueue(&queue, messages(["a", "b", "a"])).await.unwrap();
    assert_eq!((enqueued.accepted, enqueued.duplicates), (2, 1));
    assert_eq!(b.enqueue(&queue, messages(["b", "c"])).await.unwrap().duplicates, 1);
    for expected in ["a", "b", "c"] {
        let delivery = pull_one(b, &queue, LONG).await;
        assert_eq!(delivery.id, expected);
        delivery.ack().await.unwrap();
    }
    assert_eq!(b.enqueue(&queue, messages(["a", "b", "c"])).await.unwrap().duplicates, 3);
    assert!(is_empty(b, &queue).await);
}

pub(crate) async fn delivers_again_when_the_lease_lapses(b: &Backbone) {
    let queue = fresh("lapse");
    b.enqueue(&queue, messages(["a"])).await.unwrap();
    let first = pull_one(b, &queue, SHORT).await;
    assert_eq!(first.attempt, 1);
    assert!(is_empty(b, &queue).await);
    let second = pull_one(b, &queue, LONG).await;
    assert_eq!((second.id.as_str(), second.attempt), ("a", 2));
    // What the first says now must not take the message away from the second; its ack ends it for both.
    first.extend(LONG).await.unwrap();
    first.ack().await.unwrap();
    second.ack().await.unwrap();
    assert!(is_empty(b, &queue).await);
    sleep(SHORT * 2).await;
    assert!(is_empty(b, &queue).await);
}

pub(crate) async fn keeps_an_extended_lease(b: &Backbone) {
    let queue = fresh("extend");
    b.enqueue(&queue, messages(["a"])).await.unwrap();
    let lease = Duration::from_millis(1_500);
    let delivery = pull_one(b, &queue, lease).await;
    for _ in 0..8 {
        sleep(Duration::from_millis(200)).await;
        assert_eq!(delivery.extend(lease).await.unwrap(), Settled::Done);
        assert!(b.pull(&queue, 1, Duration::ZERO, lease).await.unwrap().is_empty());
    }
    delivery.ack().await.unwrap();
}

pub(crate) async fn gives_back_at_once_or_later(b: &Backbone) {
    let queue = fresh("nak");
    b.enqueue(&queue, messages(["a"])).await.unwrap();
    pull_one(b, &queue, LONG).await.nak(Duration::ZERO).await.unwrap();
    let again = pull_one(b, &queue, LONG).await;
    assert_eq!(again.attempt, 2);
    let given_back = Instant::now();
    again.nak(Duration::from_millis(300)).await.unwrap();
    let third = pull_one(b, &queue, LONG).await;
    assert!(given_back.elapsed() >= Duration::from_millis(290));
    assert_eq!(third.attempt, 3);
    third.ack().await.unwrap();
}

/// A bound on what waits must hold for what fails all the time.
pub(crate) async fn counts_what_was_put_off_as_waiting(b: &Backbone) {
    let queue = fresh("put-off");
    b.enqueue(&queue, messages(0..4)).await.unwrap();
    let pulled = b.pull(&queue, 3, WAIT, LONG).await.unwrap();
    assert_eq!(pulled.len(), 3);
    for put_off in &pulled[1..] {
        put_off.nak(Duration::from_secs(3_600)).await.unwrap();
    }
    comes_to(b, &queue, |depth| (depth.waiting(0), depth.waiting(1)) == (4, 3)).await;
    assert_eq!(pull_one(b, &queue, LONG).await.id, "3");
    pulled[0].ack().await.unwrap();
    comes_to(b, &queue, |depth| (depth.waiting(0), depth.waiting(1)) == (3, 2)).await;
    assert!(is_empty(b, &queue).await);
}

pub(crate) async fn holds_delayed_messages(b: &Backbone) {
    let queue = fresh("delay");
    let begun = Instant::now();
    let late = Message::new("late", "x").delayed(Duration::from_millis(400));
    b.enqueue(&queue, vec![late, Message::new("early", "x")]).await.unwrap();
    let early = pull_one(b, &queue, LONG).await;
    assert_eq!(early.id, "early");
    let late = pull_one(b, &queue, LONG).await;
    assert_eq!((late.id.as_str(), late.attempt), ("late", 1));
    assert!(begun.elapsed() >= Duration::from_millis(390));
}

pub(crate) async fn buries_and_replays_the_dead(b: &Backbone) {
    let queue = fresh("dead");
    b.enqueue(&queue, messages(["a", "b", "c"])).await.unwrap();
    for delivery in b.pull(&queue, 3, WAIT, LONG).await.unwrap() {
        delivery.dead(&format!("no use for {}", delivery.id)).await.unwrap();
    }
    assert!(is_empty(b, &queue).await);
    assert_eq!(b.depth(&queue).await.unwrap().dead, 3);
    let letters = b.dead_letters(&queue, 0, 2).await.unwrap();
    assert_eq!(letters.len(), 2);
    let rest = b.dead_letters(&queue, letters[1].sequence, 10).await.unwrap();
    assert_eq!(rest.len(), 1);
    let (first, last) = (&letters[0], &rest[0]);
    assert_eq!((first.id.as_str(), first.reason.as_str(), first.attempt), ("a", "no use for a", 1));
    assert_eq!((last.id.as_str(), &last.payload[..]), ("c", &b"payload c"[..]));
    assert_eq!(b.discard(&queue, vec![letters[1].sequence]).await.unwrap(), 1);
    assert_eq!(b.replay(&queue, vec![first.sequence, last.sequence, last.sequence]).await.unwrap(), 2);
    for expected in ["a", "c"] {
        let delivery = pull_one(b, &queue, LONG).await;
        assert_eq!((delivery.id.as_str(), delivery.attempt), (expected, 1));
        assert_eq!(delivery.payload, format!("payload {expected}"));
        delivery.ack().await.unwrap();
    }
    assert!(b.dead_letters(&queue, 0, 10).await.unwrap().is_empty());
    assert_eq!(b.depth(&queue).await.unwrap().dead, 0);
}

pub(crate) async fn keeps_the_newest_of_the_dead(b: &Backbone) {
    let (queue, other) = (fresh("trim"), fresh("trim"));
    for queue in [&queue, &other] {
        let large = (0..5).map(|n| Message::new(n.to_string(), vec![1; 100_000]));
        b.enqueue(queue, large.collect()).await.unwrap();
        for delivery in b.pull(queue, 5, WAIT, LONG).await.unwrap() {
            assert_eq!(b.bury(&delivery, "no use").await.unwrap(), 0);
        }
    }
    assert_eq!(b.trim_dead_letters(&queue, 5, 1 << 20).await.unwrap(), 0);
    assert_eq!(b.trim_dead_letters(&queue, 4, 1 << 20).await.unwrap(), 1);
    assert_eq!(b.trim_dead_letters(&queue, 4, 250_000).await.unwrap(), 2);
    let letters = b.dead_letters(&queue, 0, 9).await.unwrap();
    let kept: Vec<_> = letters.iter().map(|letter| (letter.id.as_str(), letter.payload.len())).collect();
    assert_eq!(kept, [("3", 100_000), ("4", 100_000)]);
    assert_eq!(b.trim_dead_letters(&queue, 4, 99_999).await.unwrap(), 2);
    assert_eq!(b.trim_dead_letters(&queue, 0, 0).await.unwrap(), 0);
    assert_eq!(b.depth(&other).await.unwrap().dead, 5);
}

pub(crate) async fn wakes_a_waiting_pull(b: &Backbone) {
    let queue = fresh("wake");
    let begun = Instant::now();
    assert!(b.pull(&queue, 1, Duration::from_millis(200), LONG).await.unwrap().is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(190));
    let waiting = {
        let (b, queue) = (b.clone(), queue.clone());
        tokio::spawn(async move { pull_one(&b, &queue, LONG).await })
    };
    sleep(Duration::from_millis(50)).await;
    b.enqueue(&queue, messages(["a"])).await.unwrap();
    assert_eq!(waiting.await.unwrap().id, "a");
}

pub(crate) async fn gives_back_what_an_abandoned_pull_got(b: &Backbone) {
    let queue = fresh("abandon");
    for round in 0..20 {
        let waiting = {
            let (b, queue) = (b.clone(), queue.clone());
            tokio::spawn(async move { b.pull(&queue, 1, WAIT, LONG).await.map(|pulled| pulled.len()) })
        };
        sleep(Duration::from_millis(2)).await;
        let enqueue = {
            let (b, queue) = (b.clone(), queue.clone());
            tokio::spawn(async move { b.enqueue(&queue, messages([round])).await })
        };
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        } else {
            sleep(Duration::from_millis(round)).await;
        }
        waiting.abort();
        enqueue.await.unwrap().unwrap();
        // Either the aborted task got it in full, and it is under lease, or it comes to the next pull now.
        if waiting.await.is_err() {
            let delivery = pull_one(b, &queue, LONG).await;
            assert_eq!(delivery.id, round.to_string());
            delivery.ack().await.unwrap();
        }
    }
}

pub(crate) async fn shares_work_without_loss(b: &Backbone) {
    const MESSAGES: usize = 400;
    let queue = fresh("share");
    let (delivered, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(MESSAGES)));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (b, queue) = (b.clone(), queue.clone());
            let (delivered, left) = (Arc::clone(&delivered), Arc::clone(&left));
            tokio::spawn(async move {
                let mut ids = Vec::new();
                while left.load(Ordering::Acquire) > 0 {
                    for delivery in b.pull(&queue, 5, NO_WAIT, LONG).await.unwrap() {
                        delivered.fetch_add(1, Ordering::AcqRel);
                        delivery.ack().await.unwrap();
                        left.fetch_sub(1, Ordering::AcqRel);
                        ids.push(delivery.id);
                    }
                }
                ids
            })
        })
        .collect();
    for from in (0..MESSAGES).step_by(40) {
        b.enqueue(&queue, messages(from..from + 40)).await.unwrap();
    }
    let mut all = HashSet::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    assert_eq!((all.len(), delivered.load(Ordering::Acquire)), (MESSAGES, MESSAGES));
}

/// Every message sent one to five times, in another order each time, with leases that lapse under the workers:
/// the effects, keyed by id, are those of a single delivery (fault F13).
pub(crate) async fn has_one_effect_for_many_copies(b: &Backbone) {
    let queue = fresh("copies");
    let mut sent: Vec<u64> =
        (0..60).flat_map(|n: u64| std::iter::repeat_n(n, 1 + (n % 5) as usize)).collect();
    sent.sort_by_key(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17));
    for batch in sent.chunks(9) {
        b.enqueue(&queue, messages(batch)).await.unwrap();
    }
    let mut effects: BTreeMap<String, Bytes> = BTreeMap::new();
    while effects.len() < 60 || !is_empty(b, &queue).await {
        let pulled = b.pull(&queue, 8, NO_WAIT, SHORT).await.unwrap();
        for (at, delivery) in pulled.into_iter().enumerate().collect::<Vec<_>>().into_iter().rev() {
            let before = effects.insert(delivery.id.clone(), delivery.payload.clone());
            assert!(before.is_none_or(|before| before == delivery.payload));
            // Every third worker dies after its effect and before its ack, once.
            if at % 3 != 0 || delivery.attempt > 1 {
                delivery.ack().await.unwrap();
            }
        }
    }
    let expected = (0..60).map(|n| (n.to_string(), Bytes::from(format!("payload {n}"))));
    assert_eq!(effects, expected.collect());
}

pub(crate) async fn keeps_queues_apart(b: &Backbone) {
    let root = fresh("apart");
    let (one, two) = (format!("{root}/1"), format!("{root}/2"));
    b.enqueue(&one, messages(["a"])).await.unwrap();
    b.enqueue(&two, messages(["a", "b"])).await.unwrap();
    assert!(is_empty(b, &root).await);
    assert_eq!(b.depth(&one).await.unwrap().ready, 1);
    assert_eq!(b.depth(&two).await.unwrap().ready, 2);
    let delivery = pull_one(b, &one, LONG).await;
    assert_eq!(b.depth(&one).await.unwrap().leased, 1);
    delivery.ack().await.unwrap();
    assert!(is_empty(b, &one).await);
    assert_eq!(b.pull(&two, 10, WAIT, LONG).await.unwrap().len(), 2);
}
