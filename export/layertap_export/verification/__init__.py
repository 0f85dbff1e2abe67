"""Comparing a file with what it should compute."""
