"""Reading a model: TensorFlow and Keras, never onnx."""
