"""Numbers: the one package that imports onnxruntime."""
