"""Comparing results: a file with its golden sample, an array with another."""
