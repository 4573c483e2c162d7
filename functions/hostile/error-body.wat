;; says that the body does not fit, which is a code that it may give by itself
;; expect: invalid-body
;; detail: body.limit: expected a number
(data (i32.const 1024) "invalid-body")
(data (i32.const 1040) "body.limit: expected a number")
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $fail (i32.const 1024) (i32.const 12) (i32.const 1040) (i32.const 29)))
