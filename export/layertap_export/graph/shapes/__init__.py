"""Shapes and dtypes of the tensors of a graph."""
