;; What every handler fixture has: a memory, a bump allocator, two answers.
(import "fanfold:function/context@0.1.0" "log" (func $log (param $level i32) (param $at i32) (param $bytes i32)))
(memory (export "memory") 2)
(global $heap (mut i32) (i32.const 65536))

(func $allocate (export "cabi_realloc") (param $old i32) (param $old_bytes i32) (param $align i32) (param $bytes i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
  (global.set $heap (i32.add (local.get $at) (local.get $bytes)))
  (block $fits
    (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
    (br_if $fits (i32.ne (i32.const -1)
      (memory.grow (i32.add (i32.shr_u (local.get $bytes) (i32.const 16)) (i32.const 1)))))
    (unreachable))
  (local.get $at))

;; A response with status 200, no headers and this body.
(func $ok (param $body i32) (param $bytes i32) (result i32)
  (i32.store8 (i32.const 16) (i32.const 0))
  (i32.store16 (i32.const 20) (i32.const 200))
  (i32.store (i32.const 24) (i32.const 0))
  (i32.store (i32.const 28) (i32.const 0))
  (i32.store (i32.const 32) (local.get $body))
  (i32.store (i32.const 36) (local.get $bytes))
  (i32.const 16))

;; An error with this code and message, not to be retried.
(func $fail (param $code i32) (param $code_bytes i32) (param $message i32) (param $message_bytes i32) (result i32)
  (i32.store8 (i32.const 16) (i32.const 1))
  (i32.store (i32.const 20) (local.get $code))
  (i32.store (i32.const 24) (local.get $code_bytes))
  (i32.store (i32.const 28) (local.get $message))
  (i32.store (i32.const 32) (local.get $message_bytes))
  (i32.store8 (i32.const 36) (i32.const 0))
  (i32.const 16))
