;; returns an error with a code of the platform's that the platform never gave it
;; expect: function-error
;; detail: trust me
(data (i32.const 1024) "store-unavailable")
(data (i32.const 1056) "trust me")
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $fail (i32.const 1024) (i32.const 17) (i32.const 1056) (i32.const 8)))
