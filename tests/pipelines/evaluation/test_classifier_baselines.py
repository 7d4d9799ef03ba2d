"""Baselines without a GPT: what they learn, and classes that they never saw."""

import numpy as np
import pytest

from pipelines.evaluation.classifier_baselines import FEATURES, count_features, fit_baseline

TEXTS = ["BUY cheap pills now!", "WIN £500 cash now!", "see you at home", "lunch at noon then"] * 5
TARGETS = np.array([2, 2, 0, 0] * 5)


def test_majority_answers_with_the_training_frequencies():
    predict = fit_baseline("majority class", ["a"] * 4, np.array([0, 0, 0, 1]), 3)
    assert predict(["b", "c"]).tolist() == [[0.75, 0.25, 0.0]] * 2


@pytest.mark.parametrize("system", ["TF-IDF logistic regression", "hand-made features"])
def test_baselines_learn_and_give_unseen_classes_nothing(system):
    probabilities = fit_baseline(system, TEXTS, TARGETS, 3)(["CASH now! £9!", "home at noon", ""])
    assert probabilities[:2].argmax(axis=1).tolist() == [2, 0]
    assert probabilities[:, 1].tolist() == [0, 0, 0]
    assert probabilities.sum(axis=1) == pytest.approx([1, 1, 1])


def test_features_are_counted():
    (row,) = np.expm1(count_features(["Win £5,000! See www.prize.com or HTTP://x.org!"]))
    assert dict(zip(FEATURES, row.round(), strict=True)) == {
        "length": 46,
        "digits": 4,
        "capitals": 6,
        "links": 2,
        "currency signs": 1,
        "exclamation marks": 2,
    }


def test_tfidf_without_words_is_the_majority():
    predict = fit_baseline("TF-IDF logistic regression", ["!", "?", "!"], np.array([0, 1, 0]), 2)
    assert predict(["!"])[0] == pytest.approx([2 / 3, 1 / 3])
