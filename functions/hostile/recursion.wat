;; G4: calls itself without end
;; expect: stack-overflow
(func $deeper (param $n i64) (result i64)
  (i64.add (call $deeper (i64.add (local.get $n) (i64.const 1))) (local.get $n)))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (drop (call $deeper (i64.const 0)))
  (call $ok (i32.const 0) (i32.const 0)))
