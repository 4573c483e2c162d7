;; a panic as the SDK reports it
;; expect: guest-panicked
;; detail: panicked at src/lib.rs:7: no such row
(data (i32.const 1024) "panicked at src/lib.rs:7: no such row")
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $log (i32.const 4) (i32.const 1024) (i32.const 37))
  (unreachable))
