"""A published model, ready to use."""
