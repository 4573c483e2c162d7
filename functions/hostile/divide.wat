;; divides by zero
;; expect: guest-trapped
;; detail: integer divide by zero
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (drop (i32.div_u (i32.const 1) (local.get $query_bytes)))
  (call $ok (i32.const 0) (i32.const 0)))
