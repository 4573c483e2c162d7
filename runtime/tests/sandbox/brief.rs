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
};
use tower::ServiceExt as _;

use crate::support::{Platform, handler, invocation};

/// Answers an empty body, and loops on any other.
const FIXTURE: &str = r#"(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (if (local.get $body_bytes) (then (loop $forever (br $forever))))
  (call $ok (local.get $body) (local.get $body_bytes)))"#;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brief_calls_are_done_at_once_until_one_is_not() {
    let platform = Platform::start().await;
    let version = platform.deploy(handler(FIXTURE), Settings::default()).await.unwrap();
    // Generous: other tests run beside this one. A tick is 10 ms.
    let turn = Duration::from_secs(5);
    let (outcome, at_once) = call(&platform, &version, b"", turn).await;
    assert!(outcome.result.is_ok() && !at_once, "nothing is known of it yet");
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let (outcome, at_once) = call(&platform, &version, b"", turn).await;
        outcome.result.unwrap();
        if at_once {
            break;
        }
        assert!(Instant::now() < patience, "expected a brief call to be done at once");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (outcome, at_once) = call(&platform, &version, b"loop", turn).await;
    assert_eq!(outcome.result.unwrap_err().code, ErrorKind::DeadlineExceeded);
    assert!(!at_once);
    let (outcome, at_once) = call(&platform, &version, b"", turn).await;
    assert!(outcome.result.is_ok() && !at_once, "it rests");
}
