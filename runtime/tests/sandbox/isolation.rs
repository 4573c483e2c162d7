// SPDX-License-Identifier: Apache-2.0
//! G11: what one guest leaves behind is not found by the next.

use std::time::Duration;

use fanfold_protocol::size::ByteSize;

use crate::support::{Platform, handler, settings};

/// With a body of `w`, fills 16 MiB of memory, a global and a table with a
/// canary; else looks for it and answers how many bytes differ from zero.
const CANARY: &str = r#"
(table $t 8 64 funcref)
(global $g (mut i64) (i64.const 0))
(func $nobody)
(elem declare func $nobody)
(func $count (param $at i32) (param $end i32) (result i32)
  (local $found i32)
  (loop $next
    (if (i64.ne (i64.load (local.get $at)) (i64.const 0))
      (then (local.set $found (i32.add (local.get $found) (i32.const 1)))))
    (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end))))
  (local.get $found))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (local $found i32) (local $writes i32)
  (local.set $writes (i32.eq (i32.load8_u (local.get $body)) (i32.const 119)))
  (if (i32.eq (memory.grow (i32.const 256)) (i32.const -1)) (then (unreachable)))
  (drop (table.grow $t (ref.null func) (i32.const 32)))
  (if (local.get $writes)
    (then
      (memory.fill (i32.const 131072) (i32.const 0xc5) (i32.const 16777216))
      (memory.fill (i32.const 4096) (i32.const 0xc5) (i32.const 4096))
      (global.set $g (i64.const -1))
      (table.fill $t (i32.const 0) (ref.func $nobody) (i32.const 40)))
    (else
      (local.set $found (i32.add (call $count (i32.const 131072) (i32.const 16908288))
                                 (call $count (i32.const 4096) (i32.const 8192))))
      (if (i64.ne (global.get $g) (i64.const 0)) (then (local.set $found (i32.const 1000001))))
      (if (i32.eqz (ref.is_null (table.get $t (i32.const 3)))) (then (local.set $found (i32.const 1000002))))
      (if (i32.eqz (ref.is_null (table.get $t (i32.const 39)))) (then (local.set $found (i32.const 1000003))))))
  (i32.store (i32.const 8192) (local.get $found))
  (call $ok (i32.const 8192) (i32.const 4)))
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_earlier_guest_is_found() {
    let platform = Platform::start().await;
    let settings = settings(ByteSize(64 << 20));
    let first = platform.deploy(handler(CANARY), settings.clone()).await.unwrap();
    // Another component in the same slots.
    let other = handler(&format!("{CANARY}\n(func)"));
    let second = platform.deploy(other, settings).await.unwrap();
    let call = async |version, body: &[u8]| {
        let outcome = platform.invoke(version, body, Duration::from_secs(10)).await;
        u32::from_le_bytes(outcome.result.unwrap().body[..4].try_into().unwrap())
    };
    for _ in 0..8 {
        for version in [&first, &second] {
            assert_eq!(call(version, b"w").await, 0);
            for reader in [&first, &second] {
                assert_eq!(call(reader, b"r").await, 0, "bytes of an earlier guest");
            }
        }
    }
}
