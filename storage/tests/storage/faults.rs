// SPDX-License-Identifier: Apache-2.0
//! Faults F7 to F9: requests that are refused, bodies that are cut or stand still, answers
//! that are lost.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use fanfold_storage::{Credentials, Error, ListOptions, Meter, PutOptions, PutOutcome, Store, StoreConfig};
use futures::TryStreamExt;

use crate::{
    proxy::{self, Busy, Faults, Reluctant},
    support::{Embedded, pattern, until, uri},
};

/// Within which a body that stands still is given up and taken up again.
const STALL_MAX: Duration = Duration::from_secs(20);

async fn behind_proxy(server: &Embedded) -> (Store, Faults) {
    let faults = Faults::default();
    let address = proxy::start(server.address, faults.clone()).await;
    (Store::connect(config(server, address)).unwrap(), faults)
}

fn config(server: &Embedded, proxy: SocketAddr) -> StoreConfig {
    StoreConfig::at(format!("http://{proxy}"), server.credentials.clone())
}

/// Some of everything that is asked of a store.
async fn work(store: &Store, run: &str) {
    for n in 0..15 {
        let (at, body) = (uri("busy", &format!("{run}/{n:02}")), pattern(1_000 + n));
        match n % 2 {
            0 => drop(store.put(&at, body.clone().into(), PutOptions::default()).await.unwrap()),
            _ => {
                let put = store.put_if_absent(&at, body.clone().into(), run, PutOptions::default()).await;
                assert!(matches!(put, Ok(PutOutcome::Created(_))), "{put:?}");
            }
        }
        let pin = store.head(&at).await.unwrap().pin;
        assert_eq!(store.get(&at, Some(&pin)).await.unwrap(), body);
        assert_eq!(store.get_range(&at, &pin, 7..99).await.unwrap(), body[7..99]);
    }
    let listing = store.list("busy", &format!("{run}/"), ListOptions::default());
    assert_eq!(listing.try_collect::<Vec<_>>().await.unwrap().len(), 15);
}

/// Each refusal is answered by one more request, after a pause, and by nothing else: the
/// store serves what it serves without trouble, and is asked for that over the share
/// of requests that get through.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_three_in_ten_is_asked_for_no_more_than_is_needed() {
    let (server, busy) = (Embedded::start().await, Busy::default());
    let address = proxy::start_busy(server.address, busy.clone()).await;
    let store = Store::connect(config(&server, address)).unwrap();
    store.create_bucket("busy").await.unwrap();
    busy.take();
    work(&store, "calm").await;
    let (needed, none) = busy.take();
    assert_eq!(none, 0);
    busy.is_busy.store(true, SeqCst);
    work(&store, "busy").await;
    let (asked, refused) = busy.take();
    let served = asked - refused;
    println!("{needed} requests without trouble; {asked} with it, of which {refused} were refused");
    assert!(refused * 4 > asked, "{refused} of {asked}");
    assert!(served * 10 <= needed * 12, "{served} served where {needed} are needed");
    assert!(asked * 7 <= needed * 12, "{asked} asked where {needed} are needed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stands_still_is_taken_up_where_it_stopped() {
    let server = Embedded::start().await;
    let (store, faults) = behind_proxy(&server).await;
    store.create_bucket("still").await.unwrap();
    let at = uri("still", "x");
    let body = pattern(4 << 20);
    let pin = server.store().put(&at, body.clone().into(), PutOptions::default()).await.unwrap();
    faults.after.store(1_000_000, SeqCst);
    faults.stalls.store(1, SeqCst);
    let (meter, began) = (Meter::new(), Instant::now());
    let read = store.with_meter(meter.clone()).get_range(&at, &pin, 1..pin.size).await.unwrap();
    let took = began.elapsed();
    assert_eq!(read, body[1..]);
    assert_eq!(faults.stalls.load(SeqCst), 0, "it stood still");
    assert_eq!(meter.usage().bytes_read, pin.size - 1, "nothing was read twice");
    assert!(took < store.config().stall_timeout, "{took:?}: what never goes on is found out soon");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_only_trickles_is_taken_up_where_it_did() {
    let (server, faults) = (Embedded::start().await, Faults::default());
    let address = proxy::start(server.address, faults.clone()).await;
    let hasty = StoreConfig { stall_timeout: Duration::from_secs(1), ..config(&server, address) };
    let store = Store::connect(hasty).unwrap();
    store.create_bucket("slow").await.unwrap();
    let (at, body) = (uri("slow", "x"), pattern(4 << 20));
    let pin = server.store().put(&at, body.clone().into(), PutOptions::default()).await.unwrap();
    faults.after.store(1_000_000, SeqCst);
    faults.trickles.store(2, SeqCst);
    let began = Instant::now();
    assert_eq!(store.get_range(&at, &pin, 0..pin.size).await.unwrap(), body);
    assert_eq!(faults.trickles.load(SeqCst), 0, "it trickled");
    assert!(began.elapsed() < STALL_MAX, "{:?}", began.elapsed());
    // It is not taken up for ever.
    faults.after.store(1_000, SeqCst);
    faults.trickles.store(u64::MAX, SeqCst);
    let read = store.get_range(&at, &pin, 0..pin.size).await;
    assert!(
        matches!(read, Err(Error::Unavailable { .. } | Error::Timeout { .. })),
        "{:?}",
        read.map(|read| read.len())
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_a_body_stood_still_is_not_mixed_with_what_it_was() {
    let (server, faults) = (Embedded::start().await, Faults::default());
    let address = proxy::start(server.address, faults.clone()).await;
    // The first try has a second of it, within which the object changes.
    let hasty = StoreConfig { stall_timeout: Duration::from_secs(4), ..config(&server, address) };
    let (store, direct) = (Store::connect(hasty).unwrap(), server.store());
    direct.create_bucket("still").await.unwrap();
    let at = uri("still", "x");
    let pin = direct.put(&at, pattern(4 << 20).into(), PutOptions::default()).await.unwrap();
    faults.after.store(1_000_000, SeqCst);
    faults.stalls.store(1, SeqCst);
    let changing = async {
        until("a read that stands still", async || faults.stalls.load(SeqCst), |left| *left == 0).await;
        direct.put(&at, vec![0; 4 << 20].into(), PutOptions::default()).await.unwrap();
    };
    let (read, ()) = tokio::join!(store.get_range(&at, &pin, 0..pin.size), changing);
    assert!(matches!(read, Err(Error::Changed { .. })), "{:?}", read.map(|read| read.len()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_body_is_taken_up_where_it_broke_off() {
    let server = Embedded::start().await;
    let (store, faults) = behind_proxy(&server).await;
    store.create_bucket("cut").await.unwrap();
    let at = uri("cut", "x");
    let body = pattern(4 << 20);
    let pin = server.store().put(&at, body.clone().into(), PutOptions::default()).await.unwrap();
    for (cuts, after) in [(1, 1_000_000), (5, 700_000), (3, 200)] {
        faults.after.store(after, SeqCst);
        faults.cuts.store(cuts, SeqCst);
        let meter = Meter::new();
        let read = store.with_meter(meter.clone()).get_range(&at, &pin, 1..pin.size).await.unwrap();
        assert_eq!(read, body[1..], "{cuts} cuts");
        assert_eq!(faults.cuts.load(SeqCst), 0, "all cuts were made");
        assert_eq!(meter.usage().bytes_read, pin.size - 1, "nothing was read twice");
        faults.cuts.store(cuts, SeqCst);
        assert_eq!(store.get(&at, None).await.unwrap(), body);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_does_not_lose_the_win() {
    let server = Embedded::start().await;
    let (store, faults) = behind_proxy(&server).await;
    server.store().create_bucket("lost").await.unwrap();
    for n in 0..5 {
        faults.after.store(0, SeqCst);
        faults.cuts.store(1, SeqCst);
        let at = uri("lost", &format!("commit-{n}"));
        let outcome = store.put_if_absent(&at, "mine".into(), "me", PutOptions::default()).await.unwrap();
        assert!(matches!(outcome, PutOutcome::Created(_)), "{outcome:?}");
        assert_eq!(faults.cuts.load(SeqCst), 0, "the answer was lost");
        let other = store.put_if_absent(&at, "theirs".into(), "them", PutOptions::default()).await.unwrap();
        assert_eq!(other, PutOutcome::Exists);
    }
    server.stop().await;
}

/// S3 answers 409 to one of two conditional writes that meet: whoever gets it tries again, and then it ends as if they
/// had come one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_meets_another_is_tried_again() {
    let (server, left) = (Embedded::start().await, Arc::new(AtomicU64::new(0)));
    let meets = Arc::clone(&left);
    let address = proxy::start_instead(server.address, move |request| {
        if request.method() != "PUT" {
            return None;
        }
        meets.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).ok()?;
        Some(proxy::saying(409, "ConditionalRequestConflict", "it meets another"))
    })
    .await;
    let store = Store::connect(config(&server, address)).unwrap();
    server.store().create_bucket("met").await.unwrap();
    let at = uri("met", "commit");
    let put = async |writer: &'static str, times: u64| {
        left.store(times, SeqCst);
        let put = store.put_if_absent(&at, writer.into(), writer, PutOptions::default()).await.unwrap();
        assert_eq!(left.load(SeqCst), 0, "{writer} met others");
        put
    };
    let PutOutcome::Created(pin) = put("me", 2).await else { panic!("expected to be the first") };
    assert_eq!(put("they", 1).await, PutOutcome::Exists);
    // Only the conflict was heard of a write that went well.
    assert_eq!(put("me", 1).await, PutOutcome::Created(pin.clone()));
    left.store(1, SeqCst);
    let over = PutOptions { if_match: Some(pin.etag), ..PutOptions::default() };
    store.put(&at, "next".into(), over).await.unwrap();
    assert_eq!((left.load(SeqCst), server.store().get(&at, None).await.unwrap()), (0, "next".into()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_whose_answer_was_lost_is_complete() {
    let (server, left) = (Embedded::start().await, Arc::new(AtomicU64::new(1)));
    let address = proxy::start_swallowing(server.address, "POST", "uploadId=", Arc::clone(&left)).await;
    let store = Store::connect(config(&server, address)).unwrap();
    store.create_bucket("lost").await.unwrap();
    let at = uri("lost", "parts");
    let mut writer = store.writer(&at, PutOptions::default());
    for chunk in pattern(16 << 20).chunks(1 << 20) {
        writer.write(chunk.to_vec().into()).await.unwrap();
    }
    assert_eq!(left.load(SeqCst), 1, "nothing was lost before");
    let pin = writer.finish().await.unwrap();
    assert_eq!(left.load(SeqCst), 0, "the answer to the completion was lost");
    assert_eq!(store.get(&at, Some(&pin)).await.unwrap(), pattern(16 << 20));
    server.stop().await;
}

/// A listing whose next page is the same for ever ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_does_not_go_on_is_an_error() {
    let objects = "<ListBucketResult><IsTruncated>true</IsTruncated>\
                   <NextContinuationToken>same</NextContinuationToken></ListBucketResult>";
    let uploads = "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>\
                   <NextUploadIdMarker>same</NextUploadIdMarker></ListMultipartUploadsResult>";
    let store = |address: SocketAddr| {
        let credentials = Credentials::new("key", "secret");
        Store::connect(StoreConfig::at(format!("http://{address}"), credentials)).unwrap()
    };
    let told = |error: Option<Error>| error.map(|error| error.to_string()).unwrap_or_default();
    let listing = store(proxy::start_saying(objects).await).list("bank", "", ListOptions::default());
    let told_of_objects = told(listing.try_collect::<Vec<_>>().await.err());
    assert!(told_of_objects.contains("stays where it is"), "{told_of_objects}");
    let told_of_uploads = told(store(proxy::start_saying(uploads).await).uploads("bank", "").await.err());
    assert!(told_of_uploads.contains("stays where it is"), "{told_of_uploads}");
}

/// What a store works on for long is waited for, not given up and sent again.
#[tokio::test(flavor = "multi_thread")]
async fn copies_and_completions_may_take_long() {
    const READ_TIMEOUT: Duration = Duration::from_secs(3);
    let server = Embedded::start().await;
    let address = proxy::start_slow(server.address, READ_TIMEOUT + Duration::from_secs(2)).await;
    let hasty = StoreConfig { read_timeout: READ_TIMEOUT, attempts_max: 1, ..config(&server, address) };
    let store = Store::connect(hasty).unwrap();
    store.create_bucket("long").await.unwrap();
    let (from, to, parts) = (uri("long", "from"), uri("long", "to"), uri("long", "parts"));
    let pin = store.put(&from, "copied".into(), PutOptions::default()).await.unwrap();
    let mut writer = store.writer(&parts, PutOptions::default());
    writer.write(pattern(9 << 20).into()).await.unwrap();
    let (copied, written) = tokio::join!(store.copy(&from, Some(&pin), &to), writer.finish());
    assert_eq!(copied.unwrap().etag, pin.etag);
    assert_eq!(store.get(&parts, Some(&written.unwrap())).await.unwrap(), pattern(9 << 20));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_has_the_time_that_a_slow_way_takes() {
    let server = Embedded::start().await;
    let address = proxy::start_narrow(server.address, 3 << 20).await;
    let (read_timeout, attempts_max) = (Duration::from_secs(1), 1);
    let hasty = StoreConfig { read_timeout, attempts_max, ..config(&server, address) };
    let store = Store::connect(hasty).unwrap();
    server.store().create_bucket("slow").await.unwrap();
    let (body, places) = (pattern(9 << 20), ["whole", "once", "parts"].map(|key| uri("slow", key)));
    let put = store.put(&places[0], body.clone().into(), PutOptions::default()).await;
    put.unwrap();
    let put = store.put_if_absent(&places[1], body.clone().into(), "me", PutOptions::default()).await;
    assert!(matches!(put, Ok(PutOutcome::Created(_))), "{put:?}");
    let mut writer = store.writer(&places[2], PutOptions::default());
    writer.write(body.clone().into()).await.unwrap();
    writer.finish().await.unwrap();
    for at in &places {
        assert_eq!(server.store().get(at, None).await.unwrap(), body);
    }
    server.stop().await;
}

/// What came of deleting two batches while the store refuses one object so often, and how
/// many keys each request had.
async fn deleted(code: &'static str, times: u64) -> (Result<(), Error>, Vec<usize>) {
    let server = Embedded::start().await;
    server.store().create_bucket("full").await.unwrap();
    let (left, asked) = (Arc::new(times.into()), Arc::default());
    let reluctant = Reluctant { key: "0007", code, left, asked: Arc::clone(&asked) };
    let address = proxy::start_reluctant(server.address, reluctant).await;
    let store = Store::connect(config(&server, address)).unwrap();
    let deleted = store.delete_many("full", (0..1_500).map(|n| format!("{n:04}"))).await;
    server.stop().await;
    let asked = asked.lock().unwrap().clone();
    (deleted, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_a_busy_store_did_not_delete_are_asked_for_again() {
    for code in ["SlowDown", "InternalError"] {
        let (result, asked) = deleted(code, 2).await;
        assert!(result.is_ok(), "{code}: {result:?}");
        assert_eq!(asked, [1_000, 1, 1, 500], "{code}");
    }
    let (result, asked) = deleted("SlowDown", u64::MAX).await;
    assert!(matches!(result, Err(Error::Unavailable { .. })), "{result:?}");
    assert_eq!(asked, [vec![1_000], vec![1; 8]].concat());
    // What is refused for good keeps no others.
    let (result, asked) = deleted("AccessDenied", u64::MAX).await;
    assert!(matches!(result, Err(Error::AccessDenied { .. })), "{result:?}");
    assert_eq!(asked, [1_000, 500]);
}
