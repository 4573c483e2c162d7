// SPDX-License-Identifier: Apache-2.0
//! How far a function says it is, for whoever waits.

use std::time::Duration;

use fanfold_protocol::{
    function::Settings,
    invocation::{Progress, ProgressBoard},
};
use tower::ServiceExt as _;

use crate::support::{Platform, handler, invocation, until};

/// Tells its progress, and then loops unless its body is empty.
const FIXTURE: &str = r#"(import "fanfold:function/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $progress (i64.const 3) (i32.const 1) (i64.const 10))
  (if (local.get $body_bytes) (then (loop $forever (br $forever))))
  (call $ok (local.get $body) (local.get $body_bytes)))"#;

const LONG: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_told_while_a_function_runs_and_with_its_outcome() {
    let platform = Platform::start().await;
    let version = platform.deploy(handler(FIXTURE), Settings::default()).await.unwrap();
    let told = Some(Progress { done: 3, total: Some(10) });
    let outcome = platform.invoke(&version, b"", LONG).await;
    assert_eq!((outcome.result.is_ok(), outcome.progress), (true, told));
    let board = ProgressBoard::default();
    let mut endless = invocation(&version, b"loop", LONG);
    endless.board = Some(board.clone());
    tokio::select! {
        ended = platform.runtime.invoker().oneshot(endless) => panic!("{ended:?}"),
        _ = until("what it tells", async || board.newest(), |newest| *newest == told) => {}
    }
}
