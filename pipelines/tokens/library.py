"""Tokenizers that Hugging Face's `tokenizers` runs, for files whose rules tiktoken does not have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray

from pipelines.tokens.byte_pairs import BYTE_OF_LETTER
from pipelines.tokens.tokenizer import END_OF_TEXT, Ids, Tokenizer

BYTE = re.compile("<0x([0-9A-F]{2})>")


class LibraryTokenizer(Tokenizer):
    """The tokenizer of a `tokenizer.json`, with the same ids as in its own library. No text makes a special token.

    The file's settings that cut or pad texts, or put tokens around them, have no effect and are not stored. A file
    without `<|endoftext|>` gets it after its vocabulary.

    Attributes:
        value: the fields of the file.
    """

    def __init__(self, value: dict[str, Any], special_tokens: Sequence[str] = ()) -> None:
        """Make a tokenizer from the fields of a file, and more special tokens.

        Raises:
            ValueError: the fields are not those of a tokenizer.
        """
        alone = {"truncation": None, "padding": None, "post_processor": None}
        try:
            self.library = tokenizers.Tokenizer.from_str(orjson.dumps(value | alone).decode())
        except Exception as error:  # the library has no other type
            raise ValueError(f"{error}") from None
        self.library.encode_special_tokens = True  # as text
        self.library.add_special_tokens([END_OF_TEXT, *special_tokens])
        self.value = {**orjson.loads(self.library.to_str()), **alone}
        self._added = {token.content: i for i, token in self.library.get_added_tokens_decoder().items()}
        special = [token["content"] for token in self.value["added_tokens"] if token["special"]]
        self.special = {token: self._added[token] for token in special}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields: the library forgets its settings."""
        return LibraryTokenizer, (self.value,)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Return the text of each id in UTF-8, by id."""
        ids = self.library.get_vocab(with_added_tokens=True)
        tokens = [b""] * (max(ids.values()) + 1)
        alone = self._added.keys() - self.library.get_vocab(with_added_tokens=False).keys()
        spell = _byte_letters if self.is_byte_level else _blank_marks(self.value)
        for token, i in ids.items():
            tokens[i] = token.encode() if token in alone else spell(token)
        return tokens

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether the vocabulary is written in the letters that GPT-2's has for bytes."""
        return any(part["type"] == "ByteLevel" for part in parts(self.value, "normalizer", "pre_tokenizer"))

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, without special tokens."""
        return self._encode_many([text])[0]

    def encode_documents(self, texts: pa.StringArray) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Encode documents, and end each with the end of text. See `Tokenizer.encode_documents`."""
        ids = self._encode_many(texts.to_pylist())
        end = np.array([self.end_of_text], np.uint32)
        joined = np.concatenate([*chain.from_iterable((each, end) for each in ids), end[:0]])
        return joined.astype(self.dtype), np.array([len(each) + 1 for each in ids], np.int64)

    def _encode_many(self, texts: list[str]) -> list[Ids]:
        found = self.library.encode_batch_fast(texts, add_special_tokens=False)
        ids = [np.array(each.ids, np.uint32) for each in found]
        return [
            self._apart(text) if self._is_special[each].any() else each for text, each in zip(texts, ids, strict=True)
        ]

    def _apart(self, text: str) -> Ids:
        """Return the ids of a text whose special tokens are part of the model itself: each is cut in two."""
        spelled = re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))))
        cuts = [0, *((match.start() + match.end()) // 2 for match in spelled.finditer(text)), len(text)]
        pieces = [text[start:end] for start, end in pairwise(cuts)]
        found = self.library.encode_batch_fast(pieces, add_special_tokens=False)
        ids = np.array([i for each in found for i in each.ids], np.uint32)
        if self._is_special[ids].any():
            raise ValueError(f"the text {text[:80]!r} makes a special token")
        return ids

    @cached_property
    def _is_special(self) -> NDArray[np.bool_]:
        found = np.zeros(self.vocabulary, bool)
        found[list(self.special.values())] = True
        return found

    def with_special(self, tokens: Sequence[str]) -> LibraryTokenizer:
        """Return a tokenizer with more special tokens: the file's own of these names, or new ones behind all others."""
        return LibraryTokenizer(self.value, tokens)

    def to_json(self) -> dict[str, Any]:
        """Return the tokenizer in Hugging Face's format."""
        return self.value


def parts(value: dict[str, Any], *names: str) -> Iterator[dict[str, Any]]:
    """Yield the parts of a file that transform text, such as its normalizers, without the sequences around them."""
    for found in (value.get(name) for name in names):
        if found and found["type"] == "Sequence":
            inner = next(found[key] for key in ("normalizers", "pretokenizers", "decoders") if key in found)
            yield from chain.from_iterable(parts({"part": part}, "part") for part in inner)
        elif found:
            yield found


def _byte_letters(token: str) -> bytes:
    try:
        return token.translate(BYTE_OF_LETTER).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()


def _blank_marks(value: dict[str, Any]) -> Callable[[str], bytes]:
    """Return a function from a token to its text, in which a mark means a space, and `<0x0A>` a byte."""
    marks = ["▁"] if value["model"].get("byte_fallback") else []
    for part in parts(value, "normalizer", "pre_tokenizer"):
        if part["type"] == "Metaspace":
            marks.append(part["replacement"])
        elif part["type"] == "Replace" and part["pattern"] == {"String": " "}:
            marks.append(part["content"])

    def text_of(token: str) -> bytes:
        if byte := BYTE.fullmatch(token):
            return bytes.fromhex(byte[1])
        for mark in marks:
            token = token.replace(mark, " ")
        return token.encode()

    return text_of
