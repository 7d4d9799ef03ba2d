"""A tokenizer: text to token ids and back, stored as `tokenizer.json`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.store.files import write_synced

END_OF_TEXT = "<|endoftext|>"

FILE = "tokenizer.json"

Ids = NDArray[np.uint32]


class Refused(ValueError):
    """A file's tokenizer would lose text, or give other ids each time. The text says which part of the file does."""


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        special: id of every special token, by its spelling.
    """

    special: dict[str, int]

    @property
    def vocabulary(self) -> int:
        """Return the number of token ids, including special tokens."""
        return len(self.token_bytes)

    @property
    def end_of_text(self) -> int:
        """Return the id that ends a document."""
        return self.special[END_OF_TEXT]

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """Return the smallest integer type that stores every id."""
        return np.uint16 if self.vocabulary <= 1 << 16 else np.uint32

    @property
    @abstractmethod
    def token_bytes(self) -> list[bytes]:
        """Return the text of each id in UTF-8, by id. A special token has its spelling."""

    @cached_property
    def token_lengths(self) -> NDArray[np.int64]:
        """Return the number (V,) of bytes of text of each id, 0 for special tokens."""
        lengths = np.array([len(token) for token in self.token_bytes], np.int64)
        lengths[list(self.special.values())] = 0
        return lengths

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """Return the ids of a text, without special tokens."""

    def encode_documents(self, texts: pa.StringArray) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Encode documents, and end each with the end of text.

        Returns:
            The ids of all documents, one after another, and the number of ids of each, its end of text included.
        """
        ids = [self.encode(text) for text in texts.to_pylist()]
        lengths = np.array([len(each) + 1 for each in ids], np.int64)
        end = np.array([self.end_of_text], np.uint32)
        joined = np.concatenate([part for each in ids for part in (each, end)] or [end[:0]])
        return joined.astype(self.dtype), lengths

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the text of ids in UTF-8. The last character may be incomplete.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        tokens, ids = self.token_bytes, list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < len(tokens):
            raise ValueError(f"a token id lies outside the vocabulary of {self.vocabulary}")
        return b"".join([tokens[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids. Bytes that form no whole character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, folder: Path) -> Path:
        """Write `tokenizer.json` into a folder and return its path."""
        path = folder / FILE
        write_synced(path, orjson.dumps(self.to_json(), option=orjson.OPT_INDENT_2))
        return path

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the tokenizer in Hugging Face's format."""

    @abstractmethod
    def with_special(self, tokens: Sequence[str]) -> Tokenizer:
        """Return a tokenizer with more special tokens after the vocabulary."""


def classifier_tokens(tokenizer: Tokenizer, text: str, context: int) -> list[int]:
    """Return the tokens of a text for a classifier: cut to the context, and ended by the end of text.

    The classifier reads its answer from this last token. An empty text has it too.
    """
    return [*tokenizer.encode(text)[: context - 1].tolist(), tokenizer.end_of_text]


def add_ids(special: Mapping[str, int], tokens: Sequence[str], first: int) -> dict[str, int]:
    """Give ids from `first` on to the tokens that have none yet."""
    new = [token for token in dict.fromkeys(tokens) if token not in special]
    return {**special, **{token: first + i for i, token in enumerate(new)}}


def split_at(pattern: str) -> dict[str, Any]:
    """Return Hugging Face's pre-tokenizer that divides a text into the matches of a regular expression."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def hugging_face_json(
    special: Mapping[str, int], *, pre_tokenizer: dict[str, Any], decoder: dict[str, Any], model: dict[str, Any]
) -> dict[str, Any]:
    """Return the fields of a `tokenizer.json`, in Hugging Face's order."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = sorted(special.items(), key=lambda item: item[1])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for token, i in added],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
