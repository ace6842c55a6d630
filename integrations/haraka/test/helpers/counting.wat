;; A policy that accepts one message, and traps at the next.
(module
  (memory (export "memory") 1)
  (global $asked (mut i32) (i32.const 0))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 8192))
  ;; A verdict of zeros is an acceptance without connectors.
  (func (export "portcullis:policy/evaluation@0.1.0#evaluate") (param i32) (result i32)
    (if (global.get $asked) (then (unreachable)))
    (global.set $asked (i32.const 1))
    (i32.const 1024))
  (func (export "portcullis:policy/evaluation@0.1.0#explain") (param i32) (result i32) (unreachable))
  (func (export "portcullis:policy/evaluation@0.1.0#describe") (param i32 i32) (result i32) (i32.const 2048)))
