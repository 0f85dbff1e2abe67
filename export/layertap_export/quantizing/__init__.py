"""Smaller and faster files: weights, and what computes with them, in float16 or in int8."""
