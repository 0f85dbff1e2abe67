"""Programs that benchmarks run in new processes."""
