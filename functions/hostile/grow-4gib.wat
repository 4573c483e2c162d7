;; G3: asks for 4 GiB at once, and aborts when it does not get it
;; expect: memory-exceeded
;; detail: at most 64MiB of memory
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (if (i32.eq (memory.grow (i32.const 65534)) (i32.const -1)) (then (unreachable)))
  (call $ok (i32.const 0) (i32.const 0)))
