"""Finished files: a picture goes in, scores and a heat map come out, by ONNX's operators alone."""
