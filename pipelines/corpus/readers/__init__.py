"""Readers: a file of some format becomes a stream of records."""
