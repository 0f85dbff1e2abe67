"""Passes: each changes a graph in one way."""
