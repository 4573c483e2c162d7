;; G5: answers with a little more than is allowed
;; expect: response-too-large
;; detail: at most 6MiB, found 7340032 bytes
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (if (i32.eq (memory.grow (i32.const 120)) (i32.const -1)) (then (unreachable)))
  (call $ok (i32.const 0) (i32.const 7340032)))
