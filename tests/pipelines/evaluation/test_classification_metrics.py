"""Metrics of classifiers and their resamples, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pipelines.evaluation.classification_metrics import Answers, _areas, curves, measure_classes, with_intervals
from pipelines.evaluation.significance import resampled


def classification_metrics(answers):
    return {name: measure.value for name, measure in measure_classes(answers).items()}


@st.composite
def answers(draw, most_classes=4):
    """Random answers, with equal scores among them and perhaps a label that training never saw."""
    known = draw(st.integers(2, most_classes - 1))
    n_classes = known + draw(st.integers(0, 1))
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    probabilities = np.zeros((n, n_classes))
    probabilities[:, :known] = rng.integers(1, 5, (n, known))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    truth = rng.integers(0, n_classes, n)
    predicted = np.where(rng.random(n) < 0.5, probabilities.argmax(axis=1), rng.integers(0, known, n))
    labels = [f"label {i}" for i in range(n_classes)]
    return Answers(truth, predicted, probabilities, labels, int(rng.integers(known)), known)


@settings(deadline=None)
@given(answers=answers())
def test_metrics_equal_scikit_learn_to_the_last_digit(answers):
    ours, a = classification_metrics(answers), answers
    every = {"labels": range(len(a.labels)), "average": None, "zero_division": 0}
    macro = {"average": "macro", "zero_division": 0}
    for name, metric in {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}.items():
        each = metric(a.truth, a.predicted, **every)
        assert ours[name] == each[a.positive]
        assert [ours[f"{name}/{label}"] for label in a.labels] == each.tolist()
        assert ours[f"{name}_macro"] == metric(a.truth, a.predicted, **macro)
    assert ours["accuracy"] == sk.accuracy_score(a.truth, a.predicted)
    present = sorted(set(a.truth))
    recalls = sk.recall_score(a.truth, a.predicted, labels=present, average=None, zero_division=0)
    assert ours["balanced_accuracy"] == recalls.mean()
    if a.n_known == 2 and len(a.labels) == 2:
        positive = a.truth == a.positive
        assert ours["brier"] == pytest.approx(sk.brier_score_loss(positive, a.probabilities[:, a.positive]), abs=1e-15)
        if len(present) == 2:
            assert ours["roc_auc"] == sk.roc_auc_score(positive, a.probabilities[:, a.positive])
            assert ours["average_precision"] == sk.average_precision_score(positive, a.probabilities[:, a.positive])
        else:
            assert "roc_auc" not in ours
    elif a.n_known > 2 and len(present) == len(a.labels):
        theirs = sk.roc_auc_score(a.truth, a.probabilities, multi_class="ovr", labels=range(len(a.labels)))
        assert ours["roc_auc"] == pytest.approx(theirs, abs=1e-15)


@settings(deadline=None)
@given(answers=answers(), seed=st.integers(0, 99))
def test_resample_equals_metrics_of_the_drawn_texts(answers, seed):
    n = len(answers.truth)
    drawn = np.random.default_rng(seed).integers(0, n, n)
    some = Answers(
        answers.truth[drawn],
        answers.predicted[drawn],
        answers.probabilities[drawn],
        answers.labels,
        answers.positive,
        answers.n_known,
    )
    assume(some.ranked == answers.ranked)  # a label that is not drawn has no ROC-AUC in either
    weights = np.bincount(drawn, minlength=n)[None].astype(float)
    ours, theirs = resampled(measure_classes(answers), weights), classification_metrics(some)
    assert ours.keys() == theirs.keys()
    assert {name: value.item() for name, value in ours.items()} == pytest.approx(theirs, abs=1e-12)


def test_calibration_error_is_distance_of_confidence_from_accuracy():
    confident = np.array([[0.1, 0.9]] * 10)
    truth = np.array([1] * 7 + [0] * 3)
    answers = Answers(truth, np.ones(10, int), confident, ["a", "b"], 1, 2)
    assert classification_metrics(answers)["calibration_error"] == pytest.approx(0.9 - 0.7)
    drawn = curves("model", answers).to_pylist()
    (point,) = [row for row in drawn if row["curve"] == "calibration"]
    assert (point["x"], point["y"]) == pytest.approx((0.9, 0.7))


def test_intervals_are_deterministic_and_cover_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(20):
        truth = (rng.random(150) < 0.3).astype(int)
        right = rng.random(150) < 0.8
        probabilities = np.stack([np.where(truth == right, 0.4, 0.6), np.where(truth == right, 0.6, 0.4)], axis=1)
        answers = Answers(truth, np.where(right, truth, 1 - truth), probabilities, ["a", "b"], 1, 2)
        found = with_intervals(answers)
        assert all(each.low <= each.value <= each.high for name, each in found.items() if name != "calibration_error")
        covered += found["accuracy"].low <= 0.8 <= found["accuracy"].high
    assert found == with_intervals(answers)
    assert covered >= 16


def test_curves_are_short_and_keep_the_area():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 5000)
    scores = np.clip(truth * 0.3 + rng.random(5000) * 0.7, 0, 1)
    answers = Answers(truth, (scores > 0.5).astype(int), np.stack([1 - scores, scores], 1), ["a", "b"], 1, 2)
    table = curves("model", answers).to_pydict()
    for curve, area in (("roc", sk.roc_auc_score), ("precision_recall", sk.average_precision_score)):
        at = [i for i, each in enumerate(table["curve"]) if each == curve]
        assert 100 < len(at) <= 500 and {table["label"][i] for i in at} == {"b"}
        x, y = (np.array([table[axis][i] for i in at]) for axis in "xy")
        assert sk.auc(x, y) == pytest.approx(area(truth, scores), abs=0.005)


def test_texts_of_one_class_have_all_but_ranking():
    answers = Answers(np.zeros(3, int), np.zeros(3, int), np.array([[0.9, 0.1]] * 3), ["a", "b"], 1, 2)
    found = with_intervals(answers)
    assert found["accuracy"].value == 1 and found["f1"].value == 0 and "roc_auc" not in found
    assert set(curves("model", answers)["curve"].to_pylist()) == {"calibration"}


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.5, 0.7]), st.integers(0, 3)), min_size=2))
def test_areas_of_a_resample_are_those_of_weighted_texts(texts):
    true, scores, weights = map(np.array, zip(*texts, strict=True))
    assume(0 < weights[true].sum() < weights.sum())
    auc, precision = _areas(true, scores, weights[None].astype(float))
    assert auc[0] == pytest.approx(sk.roc_auc_score(true, scores, sample_weight=weights))
    assert precision[0] == pytest.approx(sk.average_precision_score(true, scores, sample_weight=weights))
