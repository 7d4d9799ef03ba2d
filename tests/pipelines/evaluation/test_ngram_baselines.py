"""N-gram baselines, against plain counts."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipelines.evaluation.ngram_baselines as baselines
from pipelines.evaluation.ngram_baselines import trigram_losses, unigram_losses

V = 6
streams = st.lists(st.integers(0, V - 1), min_size=3, max_size=60).map(lambda ids: np.array(ids, np.uint16))


@given(train=st.lists(streams, min_size=1, max_size=3), scored=streams)
def test_unigram_is_the_add_one_smoothed_frequency(train, scored):
    counts = Counter(int(token) for stream in train for token in stream)
    total = sum(counts.values()) + V
    expected = [-math.log((counts[int(token)] + 1) / total) for token in scored[1:]]
    assert unigram_losses(train, [scored], V) == pytest.approx(expected)


@settings(deadline=None)
@given(train=st.lists(streams, min_size=1, max_size=3), position=st.integers(2, 59), scored=streams)
def test_ngram_counts_equal_a_plain_count(train, position, scored):
    position = min(position, len(scored) - 1)
    counts = baselines._count(train, baselines._ngrams([scored], V), V)
    a, b, c = (int(scored[position - i]) for i in (2, 1, 0))
    triples = [tuple(map(int, s[i : i + 3])) for s in train for i in range(len(s) - 2)]
    assert counts.abc[position - 1] == triples.count((a, b, c))
    assert counts.ab[position - 1] == sum(t[:2] == (a, b) for t in triples)
    assert counts.c[position - 1] == sum(int((s == c).sum()) for s in train)


def test_counting_in_chunks_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    train, tune, scored = ([rng.integers(0, V, n).astype(np.uint16)] for n in (500, 80, 80))
    whole = trigram_losses(train, tune, scored, V)
    monkeypatch.setattr(baselines, "CHUNK", 7)
    assert np.array_equal(trigram_losses(train, tune, scored, V), whole)


@settings(deadline=None)
@given(train=st.lists(streams, min_size=1, max_size=2), tune=streams, context=st.tuples(*[st.integers(0, V - 1)] * 2))
def test_trigram_probabilities_sum_to_at_most_one(train, tune, context):
    # A context at the end of a stream has no next token. The sum is then slightly below one.
    rows = [np.array([*context, token], np.uint16) for token in range(V)]
    losses = trigram_losses(train, [tune], rows, V).reshape(V, 2)[:, 1]
    assert np.exp(-losses).sum() <= 1 + 1e-9


def test_trigram_approaches_the_entropy_of_a_markov_chain():
    rng = np.random.default_rng(1)
    chances = rng.dirichlet(np.full(20, 0.2), size=20)

    def chain(n):
        ids = [0]
        for _ in range(n):
            ids.append(int(rng.choice(20, p=chances[ids[-1]])))
        return np.array(ids, np.uint16)

    train, tune, scored = chain(20_000), chain(2_000), chain(2_000)
    entropy = -np.log(chances[scored[:-1], scored[1:]]).mean()
    assert entropy < trigram_losses([train], [tune], [scored], 20).mean() < entropy + 0.1
    assert unigram_losses([train], [scored], 20).mean() > entropy + 0.3
