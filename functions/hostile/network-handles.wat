;; G6: opens ten million handles of a network that is not there
;; expect: guest-trapped
;; detail: more than 1024 open handles
(import "wasi:sockets/instance-network@0.2.0" "instance-network" (func $network (result i32)))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (local $n i32)
  (loop $more
    (drop (call $network))
    (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 10000000))))
  (call $ok (i32.const 0) (i32.const 0)))
