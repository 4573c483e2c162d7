;; G1: loops forever before it is called, in its start function
;; expect: deadline-exceeded
;; timeout: 300ms
(func $start (loop $forever (br $forever)))
(start $start)
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (unreachable))
