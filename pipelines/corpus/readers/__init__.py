"""Readers: each turns a file of one format into a stream of records."""
