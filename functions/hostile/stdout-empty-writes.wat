;; G7: a million empty writes to standard output, then one line
;; expect: 200
;; log: done
(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
(import "wasi:io/streams@0.2.0" "[method]output-stream.write" (func $write (param i32 i32 i32 i32)))
(data (i32.const 1024) "done\0a")
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (local $n i32) (local $out i32)
  (local.set $out (call $stdout))
  (loop $more
    (call $write (local.get $out) (i32.const 0) (i32.const 0) (i32.const 64))
    (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000000))))
  (call $write (local.get $out) (i32.const 1024) (i32.const 5) (i32.const 64))
  (call $ok (i32.const 0) (i32.const 0)))
