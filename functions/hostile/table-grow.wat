;; G3: ten million table elements, and aborts when it does not get them
;; expect: memory-exceeded
;; detail: table elements
(table $t 1 funcref)
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (if (i32.eq (table.grow $t (ref.null func) (i32.const 10000000)) (i32.const -1)) (then (unreachable)))
  (call $ok (i32.const 0) (i32.const 0)))
