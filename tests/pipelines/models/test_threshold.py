"""Thresholds of two classes, against scikit-learn's metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from pipelines.models.threshold import METRICS, check, choose_threshold

SKLEARN = {"f1": sk.f1_score, "balanced_accuracy": sk.balanced_accuracy_score, "accuracy": sk.accuracy_score}
scored = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])), min_size=2)


@pytest.mark.parametrize("metric", METRICS)
@given(pairs=scored)
def test_no_other_threshold_is_better(metric, pairs):
    positive, probabilities = np.array([p for p, _ in pairs]), np.array([q for _, q in pairs])
    threshold = choose_threshold(positive, probabilities, metric)
    if positive.all() or not positive.any():
        assert threshold is None
        return
    assert 0 <= threshold <= 1
    reached = SKLEARN[metric](positive, probabilities >= threshold)
    assert all(reached >= SKLEARN[metric](positive, probabilities >= other) - 1e-12 for other in probabilities)


@given(pairs=scored, wanted=st.sampled_from(["0.5", "0.9", "1"]))
def test_wanted_precision_is_reached_with_most_recall(pairs, wanted):
    positive, probabilities = np.array([p for p, _ in pairs]), np.array([q for _, q in pairs])
    threshold = choose_threshold(positive, probabilities, f"precision:{wanted}")
    if threshold is None:
        return
    each = [
        (sk.precision_score(positive, chosen), sk.recall_score(positive, chosen))
        for t in set(probabilities)
        if (chosen := probabilities >= t).any()
    ]
    precision = sk.precision_score(positive, probabilities >= threshold)
    recall = sk.recall_score(positive, probabilities >= threshold)
    good = [r for p, r in each if p >= float(wanted)]
    if good:
        assert precision >= float(wanted) and recall == max(good)
    else:
        assert precision == max(p for p, _ in each)


def test_threshold_is_midway_and_nearest_to_a_half():
    assert choose_threshold(np.array([True, False]), np.array([0.9, 0.3]), "f1") == pytest.approx(0.6)
    positive = np.array([True, False, True, False])
    assert choose_threshold(positive, np.array([0.9, 0.8, 0.4, 0.3]), "balanced_accuracy") == pytest.approx(0.35)
    assert choose_threshold(np.array([True, True, False]), np.array([0.8, 0.7, 0.6]), "f1") == pytest.approx(0.65)


@pytest.mark.parametrize("metric", ["f2", "precision:1.5", "precision:", "recall:0.5"])
def test_unknown_metric_is_an_error(metric):
    with pytest.raises(ValueError, match="take f1, balanced_accuracy, accuracy, or precision:P"):
        check(metric)
