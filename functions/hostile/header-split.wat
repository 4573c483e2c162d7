;; answers with a header that smuggles in another
;; expect: response-invalid
;; detail: visible text
(data (i32.const 1024) "a")
(data (i32.const 1040) "b\0d\0aset-cookie: c")
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (drop (call $ok (i32.const 0) (i32.const 0)))
  (i32.store (i32.const 200) (i32.const 1024)) (i32.store (i32.const 204) (i32.const 1))
  (i32.store (i32.const 208) (i32.const 1040)) (i32.store (i32.const 212) (i32.const 16))
  (i32.store (i32.const 24) (i32.const 200)) (i32.store (i32.const 28) (i32.const 1))
  (i32.const 16))
