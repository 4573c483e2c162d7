;; says that the query does not fit, which is a code that it may give by itself
;; expect: invalid-query
;; detail: query `page=x`: expected a number
(data (i32.const 1024) "invalid-query")
(data (i32.const 1040) "query `page=x`: expected a number")
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $fail (i32.const 1024) (i32.const 13) (i32.const 1040) (i32.const 33)))
