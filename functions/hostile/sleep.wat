;; G2: waits in a host call for an hour
;; expect: deadline-exceeded
;; timeout: 300ms
(import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
(import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $block (call $subscribe (i64.const 3600000000000)))
  (call $ok (i32.const 0) (i32.const 0)))
