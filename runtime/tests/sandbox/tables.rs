// SPDX-License-Identifier: Apache-2.0
//! Tables that a guest opens itself: how many there may be at once.

use std::time::Duration;

use fanfold_protocol::{ErrorKind, function::Settings, limits};

use crate::support::{Platform, grants, handler};

/// Opens a table, the place of which is behind the first byte of the body, until that is refused,
/// and answers with as many bytes. The first byte says what is done then: `d` drops the last and
/// goes on, `e` finishes it and goes on, `f` passes the refusal on. With `r` tables are read.
const OPENS: &str = r#"
(import "fanfold:function/tables@0.1.0" "open" (func $open (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
(import "fanfold:function/tables@0.1.0" "create" (func $create (param i32 i32 i32 i32)))
(import "fanfold:function/tables@0.1.0" "[method]writer.finish" (func $finish (param i32 i32)))
(import "fanfold:function/tables@0.1.0" "[resource-drop]writer" (func $drop (param i32)))
(global $n (mut i32) (i32.const 0))
(global $last (mut i32) (i32.const 0))
(func $fill (param $how i32) (param $at i32) (param $bytes i32)
  (block $full
    (loop $more
      (if (i32.eq (local.get $how) (i32.const 0x72))
        (then (call $open (local.get $at) (local.get $bytes) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16)))
        (else (call $create (local.get $at) (local.get $bytes) (i32.const 2) (i32.const 16))))
      (br_if $full (i32.load8_u (i32.const 16)))
      (global.set $last (i32.load (i32.const 20)))
      (global.set $n (i32.add (global.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (global.get $n) (i32.const 900))))))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (local $how i32) (local $at i32) (local $bytes i32)
  (local.set $how (i32.load8_u (local.get $body)))
  (local.set $at (i32.add (local.get $body) (i32.const 1)))
  (local.set $bytes (i32.sub (local.get $body_bytes) (i32.const 1)))
  (call $fill (local.get $how) (local.get $at) (local.get $bytes))
  (if (i32.eq (local.get $how) (i32.const 0x64)) (then
    (call $drop (global.get $last))
    (call $fill (local.get $how) (local.get $at) (local.get $bytes))))
  (if (i32.eq (local.get $how) (i32.const 0x65)) (then
    (call $finish (global.get $last) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (unreachable)))
    (call $fill (local.get $how) (local.get $at) (local.get $bytes))))
  (if (i32.eq (local.get $how) (i32.const 0x66)) (then (return (i32.const 16))))
  (call $ok (i32.const 4096) (global.get $n)))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_tables_are_open_at_once() {
    const MAX: usize = limits::TABLES_OPEN_MAX;
    let platform = Platform::start().await;
    platform.put("bank", "a/t.csv", "x\n1\n").await;
    let settings = Settings { grants: grants(&["s3://bank/a/"], &["s3://bank/a/"]), ..Settings::default() };
    let version = platform.deploy(handler(OPENS), settings).await.unwrap();
    let call = async |how: char| {
        let body = format!("{how}s3://bank/a/t.csv");
        let outcome = platform.invoke(&version, body.as_bytes(), Duration::from_secs(30)).await;
        outcome.result.map(|response| response.body.len())
    };
    for (how, expected) in [('c', MAX), ('r', MAX), ('d', MAX + 1), ('e', MAX + 1)] {
        assert_eq!(call(how).await, Ok(expected), "{how}");
    }
    let problem = call('f').await.unwrap_err();
    assert_eq!(problem.code, ErrorKind::MemoryExceeded, "{problem}");
    assert!(problem.detail.contains(&format!("at most {MAX} tables open at once")), "{problem}");
}
