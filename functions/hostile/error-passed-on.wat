;; T1: opens an object without a grant, and passes the refusal on
;; expect: access-denied
;; detail: to be granted to read s3://bank/secret
(import "fanfold:function/objects@0.1.0" "open" (func $open (param i32 i32 i32)))
(data (i32.const 1024) "s3://bank/secret")
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $open (i32.const 1024) (i32.const 16) (i32.const 16))
  (i32.const 16))
