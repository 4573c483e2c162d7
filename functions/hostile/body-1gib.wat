;; G5: answers with 1 GiB
;; expect: response-too-large
;; detail: at most 16MiB
;; memory: 2GiB
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (if (i32.eq (memory.grow (i32.const 16384)) (i32.const -1)) (then (unreachable)))
  (call $ok (i32.const 0) (i32.const 1073741824)))
