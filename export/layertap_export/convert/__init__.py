"""From a traced TensorFlow function to an ONNX graph."""
