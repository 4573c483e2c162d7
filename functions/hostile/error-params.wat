;; says that the parameters do not fit, which is a code that it may give by itself
;; expect: invalid-params
;; detail: params.limit: expected a number
(data (i32.const 1024) "invalid-params")
(data (i32.const 1040) "params.limit: expected a number")
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $fail (i32.const 1024) (i32.const 14) (i32.const 1040) (i32.const 31)))
