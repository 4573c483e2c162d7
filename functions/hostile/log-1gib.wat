;; G7: writes 1 GiB of log in lines of 60,000 bytes
;; expect: 200
;; log: [log cut at 256 KiB]
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (local $n i32)
  (memory.fill (i32.const 4096) (i32.const 120) (i32.const 60000))
  (loop $more
    (call $log (i32.const 2) (i32.const 4096) (i32.const 60000))
    (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 17900))))
  (call $ok (i32.const 0) (i32.const 0)))
