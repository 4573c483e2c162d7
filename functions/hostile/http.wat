;; imports HTTP
;; expect: import-unknown
;; detail: wasi:http/outgoing-handler@0.2.0
(import "wasi:http/outgoing-handler@0.2.0" "handle" (func $ask))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $ask)
  (call $ok (i32.const 0) (i32.const 0)))
