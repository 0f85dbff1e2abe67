"""Any ONNX graph: onnx and numpy, never TensorFlow."""
