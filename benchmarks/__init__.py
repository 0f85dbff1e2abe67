"""What layertap costs, beside what its peers cost: `python -m benchmarks`."""
