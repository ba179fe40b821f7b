"""Claims and what they were measured to be: `python -m benchmarks --list`, `python -m benchmarks CLAIM`."""
