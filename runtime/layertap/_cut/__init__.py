"""Cutting a graph down to a request. Uses the standard library only."""
