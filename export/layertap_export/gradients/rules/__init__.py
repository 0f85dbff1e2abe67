"""The gradient rules of ONNX's operators, one module per theme, each rule with its formula.

`x` are an operator's inputs, `y` its output, `g` the gradient of the score with respect to `y`.
Where the derivative does not exist (ties, kinks), the rules choose as TensorFlow does. Each module
ends with its `RULES`, by operator.
"""
