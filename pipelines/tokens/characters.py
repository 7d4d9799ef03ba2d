"""The two teaching tokenizers: characters and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import regex

from pipelines.tokens.tokenizer import END_OF_TEXT, UNKNOWN, Ids, Tokenizer, added_tokens, with_ids

# Teaching kinds: a table of characters, or of words


class CharacterTokenizer(Tokenizer):
    """One token for each character that was seen, and one for all others."""

    pattern: ClassVar[str] = r"[\s\S]"

    def __init__(self, entries: Sequence[str], special: dict[str, int]) -> None:
        self.entries, self.special = list(entries), special
        codes = np.array([ord(entry) for entry in self.entries] or [0], np.uint32)
        self._order = np.argsort(codes)
        self._codes = codes[self._order]

    @cached_property
    def token_bytes(self) -> list[bytes]:
        return [entry.encode() for entry in [*self.entries, *self.special]]

    def encode(self, text: str) -> Ids:
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        places = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        found = self._codes[places] == codes if self.entries else np.zeros(len(codes), bool)
        return np.where(found, self._order[places], self.special[UNKNOWN]).astype(np.uint32)

    def with_special(self, tokens: Sequence[str]) -> Tokenizer:
        return type(self)(self.entries, with_ids(self.special, tokens, self.vocabulary))

    def to_json(self) -> dict[str, Any]:
        vocabulary = {entry: i for i, entry in enumerate([*self.entries, *self.special])}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added_tokens(self.special),
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": self.pattern},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CharacterTokenizer:
        special = {token["content"]: token["id"] for token in value["added_tokens"]}
        entries = sorted(value["model"]["vocab"].items(), key=lambda item: item[1])
        return cls([entry for entry, i in entries if special.get(entry) != i], special)


class WordTokenizer(CharacterTokenizer):
    """One token for each frequent word with the space before it, for punctuation and for white space."""

    pattern = r" ?\w+| ?[^\w\s]|\s+(?= \S)|\s+"
    _divide: ClassVar[Callable[[str], list[str]]] = regex.compile(pattern).findall

    def __init__(self, entries: Sequence[str], special: dict[str, int]) -> None:
        self.entries, self.special = list(entries), special
        self._ids = {entry: i for i, entry in enumerate(self.entries)}

    def encode(self, text: str) -> Ids:
        unknown = self.special[UNKNOWN]
        return np.array([self._ids.get(word, unknown) for word in type(self)._divide(text)], np.uint32)


def count_characters(texts: Iterable[str], vocabulary: int | None = None) -> CharacterTokenizer:
    """A tokenizer of all characters of the texts, in the order of Unicode, or of the most frequent ones."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    entries = sorted(_most_frequent(counts, vocabulary))
    return CharacterTokenizer(entries, {UNKNOWN: len(entries), END_OF_TEXT: len(entries) + 1})


def count_words(texts: Iterable[str], vocabulary: int | None = None) -> WordTokenizer:
    """A tokenizer of the most frequent words of the texts, or of all."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(WordTokenizer._divide(text))
    entries = _most_frequent(counts, vocabulary)
    return WordTokenizer(entries, {UNKNOWN: len(entries), END_OF_TEXT: len(entries) + 1})


def _most_frequent(counts: Counter[str], vocabulary: int | None) -> list[str]:
    counts.pop(END_OF_TEXT, None)
    ordered = sorted(counts, key=lambda entry: (-counts[entry], entry))
    return ordered[: vocabulary - 2] if vocabulary else ordered
