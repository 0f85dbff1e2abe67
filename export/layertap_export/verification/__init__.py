"""Comparing a file with the model that it was made from."""
