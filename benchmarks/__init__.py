"""Measurements of tokenmill beside its peers, which print ratios: `python -m benchmarks.NAME --help`."""
