;; G5: answers with bytes that it does not have
;; expect: guest-trapped
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $ok (i32.const 100000) (i32.const 4000000)))
