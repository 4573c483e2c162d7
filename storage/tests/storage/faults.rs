// SPDX-License-Identifier: Apache-2.0
//! Faults F8 and F9: bodies that are cut, answers that are lost.

use std::sync::atomic::Ordering::SeqCst;

use fanfold_storage::{Meter, PutOptions, PutOutcome, Store, StoreConfig};

use crate::{
    proxy::{self, Faults},
    support::{Embedded, pattern, uri},
};

async fn behind_proxy(server: &Embedded) -> (Store, Faults) {
    let faults = Faults::default();
    let address = proxy::start(server.address, faults.clone()).await;
    let config = StoreConfig::at(format!("http://{address}"), server.credentials.clone());
    (Store::connect(config).unwrap(), faults)
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

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_whose_answer_was_lost_is_complete() {
    let server = Embedded::start().await;
    let (store, faults) = behind_proxy(&server).await;
    store.create_bucket("lost").await.unwrap();
    let at = uri("lost", "parts");
    let mut writer = store.writer(&at, PutOptions::default());
    for chunk in pattern(16 << 20).chunks(1 << 20) {
        writer.write(chunk.to_vec().into()).await.unwrap();
    }
    // The next answer is that of the completion or of a part before it.
    faults.cuts.store(1, SeqCst);
    let pin = writer.finish().await.unwrap();
    assert_eq!(faults.cuts.load(SeqCst), 0, "an answer was lost");
    assert_eq!(store.get(&at, Some(&pin)).await.unwrap(), pattern(16 << 20));
    server.stop().await;
}
