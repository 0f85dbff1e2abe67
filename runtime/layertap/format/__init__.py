"""What a file is and says. The standard library alone; the exporter writes through it."""
