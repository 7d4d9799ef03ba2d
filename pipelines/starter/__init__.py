"""The start: a look at somebody's text, and a config that runs on it."""
