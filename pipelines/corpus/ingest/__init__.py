"""Ingest: source files become a corpus of clean documents, each once."""
