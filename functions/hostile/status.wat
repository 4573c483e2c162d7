;; answers with a status that is none
;; expect: response-invalid
;; detail: from 200 to 599, found 101
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (drop (call $ok (i32.const 0) (i32.const 0)))
  (i32.store16 (i32.const 20) (i32.const 101))
  (i32.const 16))
