;; G7: logs a million empty lines
;; expect: 200
;; log: [log cut at 256 KiB]
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (local $n i32)
  (loop $more
    (call $log (i32.const 2) (i32.const 0) (i32.const 0))
    (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000000))))
  (call $ok (i32.const 0) (i32.const 0)))
