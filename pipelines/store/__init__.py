"""A step, its fingerprint, and what it published."""
