"""The page about a run: figures, tables and texts to read."""
