// SPDX-License-Identifier: Apache-2.0
//! More sandboxes than the memory of all holds: they take turns.

use std::time::{Duration, Instant};

use fanfold_protocol::{ErrorKind, function::Settings};
use futures::future::join_all;
use tower::ServiceExt as _;

use crate::support::{Platform, handler, invocation, until};

/// Takes 40 MiB, and holds them for a tenth of a second, or for ever with a body.
const FIXTURE: &str = r#"(import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
(import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (if (i32.eq (memory.grow (i32.const 640)) (i32.const -1)) (then (unreachable)))
  (if (local.get $body_bytes) (then (loop $forever (br $forever))))
  (call $block (call $subscribe (i64.const 100000000)))
  (call $ok (i32.const 0) (i32.const 0)))"#;

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sandboxes_that_do_not_fit_together_take_turns_and_all_end() {
    // The second is less than one of them takes, which it has for itself then.
    for (budget, at_once) in [(128 * MIB, 2), (4 * MIB, 1)] {
        let mut platform = Platform::start().await;
        platform.with_memory(budget);
        let version = platform.deploy(handler(FIXTURE), Settings::default()).await.unwrap();
        let begun = Instant::now();
        let outcomes = join_all((0..8).map(|_| platform.invoke(&version, b"", LONG))).await;
        let elapsed = begun.elapsed();
        let mut together = Duration::ZERO;
        for outcome in outcomes {
            outcome.result.unwrap();
            assert!(outcome.usage.memory_bytes_peak >= 40 * MIB, "{:?}", outcome.usage);
            together += Duration::from_micros(outcome.usage.wall_us);
        }
        assert!(together <= elapsed * at_once, "more than {at_once} at once: {together:?} in {elapsed:?}");
        let memory = platform.runtime.memory();
        assert_eq!((memory.budget_bytes, memory.reserved_bytes), (budget, 0));
    }
}

async fn until_reserved(platform: &Platform, fits: fn(u64) -> bool) {
    let reserved = async || platform.runtime.memory().reserved_bytes;
    until("other memory to be reserved", reserved, |bytes| fits(*bytes)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_another_worker_can_take_is_refused_at_once() {
    let mut platform = Platform::start().await;
    platform.with_memory(64 * MIB);
    let version = platform.deploy(handler(FIXTURE), Settings::default()).await.unwrap();
    let beside = || platform.runtime.refusing_invoker().oneshot(invocation(&version, b"", LONG));
    let refused = async {
        until_reserved(&platform, |bytes| bytes > 0).await;
        // An error and no outcome: nothing has run.
        let problem = beside().await.unwrap_err();
        assert_eq!(problem.code, ErrorKind::ConcurrencyLimit, "{problem}");
        // Here it waits, for as long as it may take.
        let waited = platform.invoke(&version, b"", Duration::from_millis(50)).await;
        assert_eq!(waited.result.unwrap_err().code, ErrorKind::ConcurrencyLimit);
    };
    tokio::select! {
        ended = platform.runtime.invoker().oneshot(invocation(&version, b"on", LONG)) => panic!("{ended:?}"),
        refused = tokio::time::timeout(LONG / 2, refused) => refused.unwrap(),
    }
    // The first was stopped with its future.
    until_reserved(&platform, |bytes| bytes == 0).await;
    beside().await.unwrap().result.unwrap();
}
