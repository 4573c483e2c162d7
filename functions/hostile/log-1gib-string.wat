;; G5: gives the host a string of 1 GiB
;; expect: transfer-too-large
;; memory: 2GiB
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (if (i32.eq (memory.grow (i32.const 16384)) (i32.const -1)) (then (unreachable)))
  (call $log (i32.const 2) (i32.const 0) (i32.const 1073741824))
  (call $ok (i32.const 0) (i32.const 0)))
