"""What a classifier is fine-tuned on: class balance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.finetune_classifier import balanced_draw, balanced_weights


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=4))
def test_balanced_weights_give_every_class_the_same_total_and_a_mean_of_one(counts):
    targets = [label for label, n in enumerate(counts) for _ in range(n)]
    weights = balanced_weights(targets, len(counts))
    totals = [weights[label].item() * n for label, n in enumerate(counts)]
    assert totals == pytest.approx([len(targets) / len(counts)] * len(counts), rel=1e-5)
    assert sum(weights[t].item() for t in targets) / len(targets) == pytest.approx(1, rel=1e-5)


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=4), seed=st.integers(0, 9))
def test_a_balanced_draw_takes_every_class_equally_often(counts, seed):
    targets = np.array([label for label, n in enumerate(counts) for _ in range(n)])
    drawn = balanced_draw(targets)(np.random.default_rng(seed))
    each = math.ceil(len(targets) / len(counts))
    assert np.bincount(targets[drawn]).tolist() == [each] * len(counts)
