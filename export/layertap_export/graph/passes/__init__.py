"""Passes over a graph, one module each. `contract` states what a pass requires and ensures."""
