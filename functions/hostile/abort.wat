;; aborts without a word
;; expect: guest-trapped
;; detail: it aborted
(func (export "fanfold:function/handler@0.1.0#handle") (type $handle)
  (unreachable))
