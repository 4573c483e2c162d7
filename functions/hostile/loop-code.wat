;; G1: loops forever
;; expect: deadline-exceeded
;; detail: found it still running
;; timeout: 300ms
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (loop $forever (br $forever))
  (unreachable))
