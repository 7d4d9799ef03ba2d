"""A tokenizer: text to token ids and back, stored as `tokenizer.json`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.store.files import write_synced

END_OF_TEXT = "<|endoftext|>"


UNKNOWN = "<|unk|>"


FILE = "tokenizer.json"


Ids = NDArray[np.uint32]


class Tokenizer(ABC):
    """Text to token ids and back.

    vocabulary: number of token ids, special tokens included.
    end_of_text: the id that ends a document.
    special: id of every special token by its spelling.
    """

    special: dict[str, int]

    @property
    def vocabulary(self) -> int:
        return len(self.token_bytes)

    @property
    def end_of_text(self) -> int:
        return self.special[END_OF_TEXT]

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest integer type that stores every id."""
        return np.uint16 if self.vocabulary <= 1 << 16 else np.uint32

    @property
    @abstractmethod
    def token_bytes(self) -> list[bytes]:
        """What each id stands for in a text, by id; the spelling, for special tokens."""

    @cached_property
    def token_lengths(self) -> NDArray[np.int64]:
        """(V,) bytes of text that each id stands for; none, for special tokens."""
        lengths = np.array([len(token) for token in self.token_bytes], np.int64)
        lengths[list(self.special.values())] = 0
        return lengths

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """The ids of a text, without special tokens."""

    def encode_documents(self, texts: pa.StringArray) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Encode documents, each ended by the end of text.

        Returns:
            The ids of all, one behind the other, and the number of each, its end of text included.
        """
        ids = [self.encode(text) for text in texts.to_pylist()]
        lengths = np.array([len(each) + 1 for each in ids], np.int64)
        end = np.array([self.end_of_text], np.uint32)
        joined = np.concatenate([part for each in ids for part in (each, end)] or [end[:0]])
        return joined.astype(self.dtype), lengths

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for, which may end within a character.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        tokens, ids = self.token_bytes, list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < len(tokens):
            raise ValueError(f"a token id lies outside the vocabulary of {self.vocabulary}")
        return b"".join([tokens[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for; bytes that are no whole character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def save(self, folder: Path) -> Path:
        """Write `tokenizer.json` into a folder."""
        path = folder / FILE
        write_synced(path, orjson.dumps(self.to_json(), option=orjson.OPT_INDENT_2))
        return path

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The tokenizer in Hugging Face's format."""

    @abstractmethod
    def with_special(self, tokens: Sequence[str]) -> Tokenizer:
        """The same tokenizer with more special tokens behind its vocabulary."""


def with_ids(special: dict[str, int], tokens: Sequence[str], first: int) -> dict[str, int]:
    new = [token for token in dict.fromkeys(tokens) if token not in special]
    return special | {token: first + i for i, token in enumerate(new)}


def added_tokens(special: dict[str, int]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": i, "content": token, **flags} for token, i in sorted(special.items(), key=lambda item: item[1])]
