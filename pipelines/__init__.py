"""The steps, from source files to evaluations: plain functions over datasets in a step store. No Prefect, no MLflow."""

import os

import gpt  # noqa: F401  # which has a word to say before anybody imports torch
from pipelines.proxies import spare_this_machine

# Arrow's default allocator keeps three times the memory that it was ever asked for; this one gives it back.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")

spare_this_machine()
