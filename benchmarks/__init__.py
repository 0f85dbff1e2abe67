"""Time and memory of layertap compared with its peers: `python -m benchmarks`."""
