;; asks for sockets and for addresses, more often than there are handles, and goes on refused
;; expect: 200
(import "wasi:sockets/instance-network@0.2.0" "instance-network" (func $network (result i32)))
(import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket" (func $tcp (param i32 i32)))
(import "wasi:sockets/udp-create-socket@0.2.0" "create-udp-socket" (func $udp (param i32 i32)))
(import "wasi:sockets/ip-name-lookup@0.2.0" "resolve-addresses" (func $resolve (param i32 i32 i32 i32)))
(data (i32.const 1024) "localhost")
(data (i32.const 1040) "127.0.0.1")
;; Traps unless the result at 64 is an error with this code.
(func $refused (param $code i32)
  (if (i32.ne (i32.load8_u (i32.const 64)) (i32.const 1)) (then (unreachable)))
  (if (i32.ne (i32.load8_u (i32.const 68)) (local.get $code)) (then (unreachable))))
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (local $n i32) (local $all i32)
  (local.set $all (call $network))
  (loop $more
    ;; access-denied, of IPv4 and IPv6
    (call $tcp (i32.and (local.get $n) (i32.const 1)) (i32.const 64))
    (call $refused (i32.const 1))
    (call $udp (i32.and (local.get $n) (i32.const 1)) (i32.const 64))
    (call $refused (i32.const 1))
    ;; permanent-resolver-failure, also of what is an address already
    (call $resolve (local.get $all) (i32.const 1024) (i32.const 9) (i32.const 64))
    (call $refused (i32.const 20))
    (call $resolve (local.get $all) (i32.const 1040) (i32.const 9) (i32.const 64))
    (call $refused (i32.const 20))
    (br_if $more (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 2000))))
  (call $ok (i32.const 1024) (i32.const 9)))
