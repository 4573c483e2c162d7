;; G4: calls itself through the host: making room for the host's answer asks the host again
;; lib: none
;; expect: guest-trapped
;; detail: cannot leave component instance
(import "fanfold:function/context@0.1.0" "params" (func $params (param i32)))
(memory (export "memory") 2)
(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
  (call $params (i32.const 64))
  (i32.const 128))
(func (export "fanfold:function/handler@0.1.0#handle") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (call $params (i32.const 64))
  (i32.const 16))
