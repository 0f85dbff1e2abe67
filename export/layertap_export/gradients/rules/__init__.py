"""The gradients of ONNX's operators: a module per theme, each rule with its formula.

`x` are an operator's inputs, `y` its output, `g` the gradient of the score with respect to `y`.
Where the derivative does not exist (ties, kinks), the rules choose as TensorFlow does.
"""
