;; G3: eight memories, each within the bound, together beyond it
;; expect: memory-exceeded
;; detail: at most 64MiB of memory
(memory 256) (memory 256) (memory 256) (memory 256) (memory 256)
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $ok (i32.const 0) (i32.const 0)))
