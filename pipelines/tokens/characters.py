"""The two teaching tokenizers: characters and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import regex

from pipelines.tokens.tokenizer import END_OF_TEXT, Ids, Tokenizer, add_ids, hugging_face_json, split_at

UNKNOWN = "<|unk|>"


class CharacterTokenizer(Tokenizer):
    """One token for each known character, and one token for all others."""

    pattern: ClassVar[str] = r"[\s\S]"

    def __init__(self, entries: Sequence[str], special: dict[str, int]) -> None:
        self.entries, self.special = list(entries), special
        codes = np.array([ord(entry) for entry in self.entries] or [0], np.uint32)
        self._order = np.argsort(codes)
        self._codes = codes[self._order]

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """Return the text of each id in UTF-8, by id."""
        return [entry.encode() for entry in [*self.entries, *self.special]]

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, one for each character."""
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        known = self._codes[places] == codes if self.entries else np.zeros(len(codes), bool)
        return np.where(known, self._order[places], self.special[UNKNOWN]).astype(np.uint32)

    def with_special(self, tokens: Sequence[str]) -> Tokenizer:
        """Return a tokenizer with more special tokens after the vocabulary."""
        return type(self)(self.entries, add_ids(self.special, tokens, self.vocabulary))

    def to_json(self) -> dict[str, Any]:
        """Return the tokenizer in Hugging Face's format."""
        vocabulary = {entry: i for i, entry in enumerate([*self.entries, *self.special])}
        return hugging_face_json(
            self.special,
            pre_tokenizer=split_at(self.pattern),
            decoder={"type": "Fuse"},
            model={"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CharacterTokenizer:
        """Return the tokenizer that `to_json` has written."""
        special = {token["content"]: token["id"] for token in value["added_tokens"]}
        entries = sorted(value["model"]["vocab"].items(), key=lambda item: item[1])
        return cls([entry for entry, i in entries if special.get(entry) != i], special)


class WordTokenizer(CharacterTokenizer):
    """One token for each known word with the space before it, each punctuation mark and each run of white space."""

    pattern = r" ?\w+| ?[^\w\s]|\s+(?= \S)|\s+"
    divide: ClassVar[Callable[[str], list[str]]] = regex.compile(pattern).findall

    def __init__(self, entries: Sequence[str], special: dict[str, int]) -> None:
        self.entries, self.special = list(entries), special
        self._ids = {entry: i for i, entry in enumerate(self.entries)}

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, one for each word."""
        unknown = self.special[UNKNOWN]
        return np.array([self._ids.get(word, unknown) for word in type(self).divide(text)], np.uint32)


def count_characters(texts: Iterable[str], vocabulary: int | None = None) -> CharacterTokenizer:
    """Make a tokenizer of the most frequent characters of the texts, by default of all, in the order of Unicode."""
    entries = sorted(_most_frequent(texts, vocabulary))
    return CharacterTokenizer(entries, add_ids({}, (UNKNOWN, END_OF_TEXT), len(entries)))


def count_words(texts: Iterable[str], vocabulary: int | None = None) -> WordTokenizer:
    """Make a tokenizer of the most frequent words of the texts, by default of all."""
    entries = _most_frequent(map(WordTokenizer.divide, texts), vocabulary)
    return WordTokenizer(entries, add_ids({}, (UNKNOWN, END_OF_TEXT), len(entries)))


def _most_frequent(divided_texts: Iterable[Iterable[str]], vocabulary: int | None) -> list[str]:
    counts = Counter(chain.from_iterable(divided_texts))
    ordered = sorted(counts, key=lambda entry: (-counts[entry], entry))
    return ordered[: vocabulary - 2] if vocabulary else ordered
