"""Published models and tokenizers, opened by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenmill.names import Name, find, folder_of, open_home

if TYPE_CHECKING:
    from pipelines.models.language_model import Assistant, LanguageModel
    from pipelines.models.text_classifier import TextClassifier
    from pipelines.tokens.tokenizer import Tokenizer


def model(name: Name, *, home: str | Path | None = None) -> LanguageModel | Assistant | TextClassifier:
    """Open a model, on the GPU if there is one.

    Args:
        name: `NAME` (its champion), `NAME@ALIAS`, `NAME/VERSION`, `NAME@FINGERPRINT`, `model/NAME` (the newest), or a
            folder, also one with a model of Hugging Face's.
        home: the home folder.

    Raises:
        InputError: there is no such model.
    """
    from pipelines.models import open_model

    return open_model(_folder(name, home))


def tokenizer(name: Name, *, home: str | Path | None = None) -> Tokenizer:
    """Open the tokenizer of a model or of a token dataset: `encode`, `decode`, `vocabulary`.

    Args:
        name: a model as `model` takes it, `tokens/NAME`, or a folder with a `tokenizer.json`.
        home: the home folder.

    Raises:
        InputError: there is no such model or dataset.
    """
    from pipelines.tokens.tokenizers import load_tokenizer

    is_tokens = isinstance(name, str) and name.partition("@")[0].partition("/")[0] == "tokens"
    return load_tokenizer(find(name, home).path if is_tokens else _folder(name, home))


def _folder(name: Name, home: str | Path | None) -> Path:
    from flows.tracking.registry import find_model

    return folder_of(name) or find_model(str(name), open_home(home)).path
