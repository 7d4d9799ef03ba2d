"""What a language model must beat: n-gram models counted from its own training tokens.

The n-gram counts are kept only for the n-grams of the text to be scored, so memory grows with that text and not
with the training corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK = 4_000_000  # training tokens counted at a time: some 150 MB at work


ROUNDS = 30  # of expectation maximisation


def unigram_losses(train: Iterable[NDArray[np.unsignedinteger]], scored: Sequence[NDArray], vocabulary: int) -> NDArray:
    """Loss of every scored token under add-one smoothed token frequencies.

    Args:
        train: streams of training tokens.
        scored: streams of token ids; the first token of each is context only, as it is for a GPT.
        vocabulary: number of token ids.

    Returns:
        (N,) losses in nats, N the number of scored tokens.
    """
    counts = np.ones(vocabulary, np.float64)
    for stream in train:
        counts += np.bincount(stream, minlength=vocabulary)
    return -np.log(counts / counts.sum())[_targets(scored)]


def trigram_losses(
    train: Sequence[NDArray[np.unsignedinteger]],
    tune: Sequence[NDArray],
    scored: Sequence[NDArray],
    vocabulary: int,
) -> NDArray:
    """Loss of every scored token under an interpolated trigram model.

    Jelinek and Mercer (1980): p(c | a b) mixes the relative frequencies of trigram, bigram and token with a uniform
    share. The weights depend on how often the context was seen, in powers of two, and are fitted to `tune` (which
    must be neither trained on nor scored) by expectation maximisation.

    Returns:
        (N,) losses in nats, for the same tokens as `unigram_losses`.
    """
    both = _ngrams([*tune, *scored], vocabulary)
    counts = _count(train, both, vocabulary)
    probabilities, buckets = _components(counts)
    n_tune = len(_targets(tune))
    weights = _fit_weights(probabilities[:n_tune], buckets[:n_tune], int(buckets.max()) + 1)
    mixed = (weights[buckets[n_tune:]] * probabilities[n_tune:]).sum(axis=1)
    return -np.log(mixed)


@dataclass(frozen=True)
class _Ngrams:
    """Trigram, bigram and token at each scored position, as one integer each: (a·V + b)·V + c, b·V + c, c."""

    trigrams: NDArray[np.int64]
    bigrams: NDArray[np.int64]
    tokens: NDArray[np.int64]


@dataclass(frozen=True)
class _Counts:
    """How often training saw, for each position: a b c, a b, b c, b, c; and the number of training tokens."""

    abc: NDArray[np.int64]
    ab: NDArray[np.int64]
    bc: NDArray[np.int64]
    b: NDArray[np.int64]
    c: NDArray[np.int64]
    total: int
    vocabulary: int


def _targets(streams: Sequence[NDArray]) -> NDArray[np.int64]:
    return np.concatenate([np.asarray(stream[1:], np.int64) for stream in streams])


def _ngrams(streams: Sequence[NDArray], vocabulary: int) -> _Ngrams:
    # The second token of a stream has one token of context; it gets itself for the missing one, a rare trigram.
    a = np.concatenate([np.asarray(np.concatenate([s[:1], s[:-2]]), np.int64) for s in streams])
    b = np.concatenate([np.asarray(s[:-1], np.int64) for s in streams])
    c = _targets(streams)
    return _Ngrams((a * vocabulary + b) * vocabulary + c, b * vocabulary + c, c)


def _count(train: Sequence[NDArray], wanted: _Ngrams, vocabulary: int) -> _Counts:
    contexts = wanted.trigrams // vocabulary
    keys = [np.unique(values) for values in (wanted.trigrams, contexts, wanted.bigrams)]
    found = [np.zeros(len(unique), np.int64) for unique in keys]
    unigrams = np.zeros(vocabulary, np.int64)
    for stream in train:
        unigrams += np.bincount(stream, minlength=vocabulary)
        for start in range(0, max(len(stream) - 2, 0), CHUNK):
            part = np.asarray(stream[start : start + CHUNK + 2], np.int64)
            pairs = part[:-1] * vocabulary + part[1:]
            triples = pairs[:-1] * vocabulary + part[2:]
            for unique, count, seen in zip(keys, found, (triples, pairs[:-1], pairs[:-1]), strict=True):
                at = np.searchsorted(unique, seen)
                at[at == len(unique)] = 0
                count += np.bincount(at[unique[at] == seen], minlength=len(unique))
    abc, ab, bc = (
        count[np.searchsorted(unique, values)]
        for unique, count, values in zip(keys, found, (wanted.trigrams, contexts, wanted.bigrams), strict=True)
    )
    b = wanted.bigrams // vocabulary
    return _Counts(abc, ab, bc, unigrams[b], unigrams[wanted.tokens], int(unigrams.sum()), vocabulary)


def _components(counts: _Counts) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(N, 4) probabilities under trigram, bigram, token frequency and uniform; (N,) bucket of the context."""
    uniform = np.full(len(counts.c), 1 / counts.vocabulary)
    token = counts.c / counts.total
    bigram = np.divide(counts.bc, counts.b, out=np.zeros(len(uniform)), where=counts.b > 0)
    trigram = np.divide(counts.abc, counts.ab, out=np.zeros(len(uniform)), where=counts.ab > 0)
    two, one = (np.ceil(np.log2(seen + 1)).astype(np.int64).clip(max=15) for seen in (counts.ab, counts.b))
    return np.stack([trigram, bigram, token, uniform], axis=1), two * 16 + one


def _fit_weights(probabilities: NDArray, buckets: NDArray, n_buckets: int) -> NDArray:
    """(buckets, 4) mixture weights that maximise the likelihood, by expectation maximisation."""
    weights = np.full((n_buckets, probabilities.shape[1]), 1 / probabilities.shape[1])
    for _ in range(ROUNDS):
        share = weights[buckets] * probabilities
        share /= share.sum(axis=1, keepdims=True)
        # One pseudo-observation, spread evenly, keeps a bucket with little data from giving a component no weight.
        summed = np.stack([np.bincount(buckets, column, n_buckets) for column in share.T], axis=1) + 0.25
        weights = summed / summed.sum(axis=1, keepdims=True)
    return weights
