;; G6: opens ten million handles
;; expect: guest-trapped
;; detail: more than 1024 open handles
(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (local $n i32)
  (loop $more
    (drop (call $stdout))
    (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 10000000))))
  (call $ok (i32.const 0) (i32.const 0)))
