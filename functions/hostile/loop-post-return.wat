;; G1: answers, and loops forever when the answer is to be freed
;; expect: deadline-exceeded
;; timeout: 300ms
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $ok (i32.const 0) (i32.const 0)))
(func (export "cabi_post_fanfold:function/handler@0.1.0#handle") (param i32)
  (loop $forever (br $forever)))
