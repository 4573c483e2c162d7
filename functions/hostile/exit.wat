;; ends the process that it thinks it is
;; expect: guest-trapped
;; detail: exited with code 1
(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $exit (i32.const 1))
  (call $ok (i32.const 0) (i32.const 0)))
