;; asks for more random bytes than a call gives
;; expect: guest-trapped
;; detail: at most 4096 bytes
(import "fanfold:function/context@0.1.0" "random" (func $random (param i32 i32)))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $random (i32.const 4097) (i32.const 64))
  (call $ok (i32.const 0) (i32.const 0)))
