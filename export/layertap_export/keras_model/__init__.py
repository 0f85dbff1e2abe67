"""Load, inspect and trace models: imports TensorFlow and Keras, never onnx."""
