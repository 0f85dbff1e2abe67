"""The file format: reading a file's contents, and writing them. Standard library only.

The exporter writes files with the same modules that the runtime reads them with.
"""
