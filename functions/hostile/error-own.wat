;; returns an error with a code of its own, badly shaped
;; expect: function-error
;; detail: the sky fell
(data (i32.const 1024) "Sky Fell")
(data (i32.const 1040) "the sky fell")
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $fail (i32.const 1024) (i32.const 8) (i32.const 1040) (i32.const 12)))
