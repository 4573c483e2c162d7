;; G7: a line with a newline, a terminal's escape code and a NUL
;; expect: 200
;; log: a\nFORGED\u{1b}[2J\u{0}
(data (i32.const 1024) "a\0aFORGED\1b[2J\00")
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (call $log (i32.const 2) (i32.const 1024) (i32.const 13))
  (call $ok (i32.const 0) (i32.const 0)))
