"""What `fresh_process` runs, each in a fresh process."""
