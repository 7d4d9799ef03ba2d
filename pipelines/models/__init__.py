"""Published models, ready to use: continue text, answer in a conversation, or name the class of a text."""

from typing import Any

__all__ = ["open_model"]


def __getattr__(name: str) -> Any:
    if name == "open_model":  # imported on first use, since PyTorch takes seconds and much here does without it
        from pipelines.models.language_model import open_model

        return open_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
