"""Decontamination: passages that a corpus shares with an evaluation set, found by their words.

Two texts share a passage if 13 words in a row are equal, without regard to case and punctuation (Brown et al. 2020,
Language models are few-shot learners, appendix C).
"""

import zlib
from collections.abc import Iterable
from itertools import chain

import numpy as np
import regex
from numpy.typing import NDArray

WORD = regex.compile(r"\w+")
FACTOR = 0x9E3779B97F4A7C15  # odd, so that multiplication by it can be undone


class Passages:
    """All runs of `n` words in some texts, as sorted hashes."""

    def __init__(self, texts: Iterable[str], n: int) -> None:
        self.n = n
        hashes = [ngram_hashes(_word_hashes(text)[0], n) for text in texts]
        self._hashes = np.unique(np.concatenate([*hashes, np.empty(0, np.uint64)]))

    def shared(self, text: str) -> list[tuple[int, int]]:
        """Return start and end of each passage of a text that is among these, in characters, merged and in order."""
        words, spans = _word_hashes(text)
        ngrams = ngram_hashes(words, self.n)
        places = np.searchsorted(self._hashes, ngrams).clip(max=max(len(self._hashes) - 1, 0))
        found = np.flatnonzero(self._hashes[places] == ngrams) if len(self._hashes) else np.empty(0, np.int64)
        merged: list[tuple[int, int]] = []
        for first in found:
            start, end = int(spans[first, 0]), int(spans[first + self.n - 1, 1])
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        return merged


def cut(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return a text without some passages."""
    kept, at = [], 0
    for start, end in spans:
        kept.append(text[at:start])
        at = end
    return "".join([*kept, text[at:]])


def _word_hashes(text: str) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return hashes (words,) of the words of a text, and their starts and ends (words, 2)."""
    words = ((zlib.crc32(match[0].lower().encode()), *match.span()) for match in WORD.finditer(text))
    numbers = np.fromiter(chain.from_iterable(words), np.int64).reshape(-1, 3)
    return numbers[:, 0].astype(np.uint64), numbers[:, 1:]


def ngram_hashes(words: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """Return (words - n + 1,) hashes of all runs of n words: a polynomial in the words' hashes, modulo 2^64."""
    if len(words) < n:
        return np.empty(0, np.uint64)
    total = np.zeros(len(words) - n + 1, np.uint64)
    for i in range(n):
        total = total * np.uint64(FACTOR) + words[i : len(words) - n + 1 + i]
    return total
