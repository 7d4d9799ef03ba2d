"""Measurements side by side, which print ratios. Run one as `python -m benchmarks.NAME --help`."""
