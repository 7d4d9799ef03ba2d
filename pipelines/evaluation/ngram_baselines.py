"""N-gram models of the training tokens, as baselines of a language model.

Only n-grams of the scored text are counted, so memory grows with that text and not with the training corpus.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.metrics import share

CHUNK = 4_000_000  # training tokens counted at a time, which takes about 150 MB


ROUNDS = 30  # of expectation maximisation


def unigram_losses(train: Iterable[NDArray[np.unsignedinteger]], scored: Sequence[NDArray], vocabulary: int) -> NDArray:
    """Return the loss of every scored token under add-one smoothed token frequencies.

    Args:
        train: streams of training tokens.
        scored: streams of token ids; the first token of each is only context, as for a GPT.
        vocabulary: number of token ids.

    Returns:
        (N,) losses in nats, N the number of scored tokens.
    """
    counts = np.ones(vocabulary, np.float64)
    for stream in train:
        counts += np.bincount(stream, minlength=vocabulary)
    return -np.log(counts / counts.sum())[_targets(scored)]


def trigram_losses(
    train: Sequence[NDArray[np.unsignedinteger]], tune: Sequence[NDArray], scored: Sequence[NDArray], vocabulary: int
) -> NDArray:
    """Return the loss of every scored token under an interpolated trigram model (Jelinek and Mercer 1980).

    p(c | a b) mixes the relative frequencies of trigram, bigram and token with a uniform share. The weights depend on
    how often the context was seen, in powers of two. Expectation maximisation fits them to `tune`, which must be
    neither trained on nor scored.

    Returns:
        (N,) losses in nats, for the same tokens as `unigram_losses`.
    """
    counts = _count(train, _ngrams([*tune, *scored], vocabulary), vocabulary)
    probabilities, buckets = _components(counts, vocabulary)
    n_tune = len(_targets(tune))
    weights = _fit_weights(probabilities[:n_tune], buckets[:n_tune], int(buckets.max()) + 1)
    mixed = (weights[buckets[n_tune:]] * probabilities[n_tune:]).sum(axis=1)
    return -np.log(mixed)


@dataclass(frozen=True)
class _Counts:
    """Counts in training of a b c, a b, b c, b and c at each position, and the number of training tokens."""

    abc: NDArray[np.int64]
    ab: NDArray[np.int64]
    bc: NDArray[np.int64]
    b: NDArray[np.int64]
    c: NDArray[np.int64]
    total: int


def _targets(streams: Sequence[NDArray]) -> NDArray[np.int64]:
    return np.concatenate([np.asarray(stream[1:], np.int64) for stream in streams])


def _ngrams(streams: Sequence[NDArray], vocabulary: int) -> NDArray[np.int64]:
    """Return the trigram a b c at each scored position, as one integer each: (a·V + b)·V + c."""
    # The second token of a stream has one token of context. That token also replaces the missing one.
    a = np.concatenate([np.asarray(np.concatenate([s[:1], s[:-2]]), np.int64) for s in streams])
    b = np.concatenate([np.asarray(s[:-1], np.int64) for s in streams])
    return (a * vocabulary + b) * vocabulary + _targets(streams)


def _count(train: Sequence[NDArray], trigrams: NDArray[np.int64], vocabulary: int) -> _Counts:
    bigrams = trigrams % vocabulary**2
    sought = trigrams, trigrams // vocabulary, bigrams
    keys, places = zip(*(np.unique(values, return_inverse=True) for values in sought), strict=True)
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
    abc, ab, bc = (count[place] for count, place in zip(found, places, strict=True))
    b, c = np.divmod(bigrams, vocabulary)
    return _Counts(abc, ab, bc, unigrams[b], unigrams[c], int(unigrams.sum()))


def _components(counts: _Counts, vocabulary: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return (N, 4) probabilities under trigram, bigram, token and uniform, and (N,) the bucket of the context."""
    token, uniform = counts.c / counts.total, np.full(len(counts.c), 1 / vocabulary)
    bigram, trigram = share(counts.bc, counts.b), share(counts.abc, counts.ab)
    two, one = (np.ceil(np.log2(seen + 1)).astype(np.int64).clip(max=15) for seen in (counts.ab, counts.b))
    return np.stack([trigram, bigram, token, uniform], axis=1), two * 16 + one


def _fit_weights(probabilities: NDArray, buckets: NDArray, n_buckets: int) -> NDArray:
    """Return (buckets, 4) mixture weights that maximise the likelihood, by expectation maximisation."""
    weights = np.full((n_buckets, probabilities.shape[1]), 1 / probabilities.shape[1])
    for _ in range(ROUNDS):
        shares = weights[buckets] * probabilities
        shares /= shares.sum(axis=1, keepdims=True)
        # One pseudo-observation, spread evenly, gives every component some weight in buckets with little data.
        summed = np.stack([np.bincount(buckets, column, n_buckets) for column in shares.T], axis=1) + 0.25
        weights = summed / summed.sum(axis=1, keepdims=True)
    return weights
