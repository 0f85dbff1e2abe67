"""A smaller graph: what computes some tensors of a file. The standard library alone."""
