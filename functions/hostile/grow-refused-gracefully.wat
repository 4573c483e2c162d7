;; G3: asks for 4 GiB at once, and goes on when it does not get it
;; expect: 200
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (drop (memory.grow (i32.const 65534)))
  (call $ok (i32.const 0) (i32.const 0)))
