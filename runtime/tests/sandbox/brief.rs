// SPDX-License-Identifier: Apache-2.0
//! Calls that begin where they are asked for, and that go elsewhere in time.

use std::{
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use fanfold_protocol::{
    ErrorKind,
    function::{Settings, Version},
    invocation::Outcome,
    limits,
};
use tower::ServiceExt as _;

use crate::support::{Platform, handler, invocation, until};

/// Answers an empty body, and loops on any other.
const FIXTURE: &str = r#"(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (if (local.get $body_bytes) (then (loop $forever (br $forever))))
  (call $ok (local.get $body) (local.get $body_bytes)))"#;

const CALLS: usize = 20;
/// Generous: other tests run beside this one. A tick is 10 ms.
const TURN: Duration = Duration::from_secs(5);

/// What a call gives, and whether it was done at its first turn, which may take no longer than `turn`.
async fn call(platform: &Platform, version: &Arc<Version>, body: &[u8], turn: Duration) -> (Outcome, bool) {
    let invocation = invocation(version, body, Duration::from_millis(300));
    let mut call = Box::pin(platform.runtime.invoker().oneshot(invocation));
    let begun = Instant::now();
    let polled = futures::poll!(call.as_mut());
    let took = begun.elapsed();
    assert!(took < turn, "a turn of {took:?}");
    match polled {
        Poll::Ready(outcome) => (outcome.unwrap(), true),
        Poll::Pending => (call.await.unwrap(), false),
    }
}

/// How many of some calls in a row were done at their first turn. A guest thread may
/// be as quick by chance, but not each time.
async fn at_once(platform: &Platform, version: &Arc<Version>) -> usize {
    let mut count = 0;
    for _ in 0..CALLS {
        let (outcome, at_once) = call(platform, version, b"", TURN).await;
        outcome.result.unwrap();
        count += usize::from(at_once);
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wait_for_a_guest_thread_is_part_of_the_start() {
    // Each keeps the thread until the next tick, before the last one has its turn.
    const BEFORE: u32 = 20;
    let mut platform = Platform::start().await;
    platform.with_workers(1);
    let version = platform.deploy(handler(FIXTURE), Settings::default()).await.unwrap();
    call(&platform, &version, b"", TURN).await.0.result.unwrap();
    let begin = |body: &[u8]| {
        let invocation = invocation(&version, body, Duration::from_secs(10));
        Box::pin(platform.runtime.invoker().oneshot(invocation))
    };
    let mut loops: Vec<_> = (0..BEFORE).map(|_| begin(b"loop")).collect();
    for call in &mut loops {
        assert!(futures::poll!(call.as_mut()).is_pending());
    }
    let begun = Instant::now();
    let outcome = begin(b"").await.unwrap();
    let took = begun.elapsed();
    outcome.result.unwrap();
    let start = Duration::from_micros(outcome.usage.start_us);
    assert!(start > limits::EPOCH_TICK * BEFORE / 2 && start <= took, "{start:?} of {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brief_calls_are_done_at_once_until_one_is_not() {
    let platform = Platform::start().await;
    let version = platform.deploy(handler(FIXTURE), Settings::default()).await.unwrap();
    assert!(at_once(&platform, &version).await < CALLS, "nothing is known of it yet");
    until("brief calls that are done at once", || at_once(&platform, &version), |done| *done == CALLS).await;
    let (outcome, done) = call(&platform, &version, b"loop", TURN).await;
    assert_eq!(outcome.result.unwrap_err().code, ErrorKind::DeadlineExceeded);
    assert!(!done);
    assert!(at_once(&platform, &version).await < CALLS, "it rests");
}
