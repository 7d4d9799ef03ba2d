"""Metrics of a classifier on held-out texts: scikit-learn's values with bootstrap intervals, and curves."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.evaluation.metrics import Measure, Metric, Rows, mean_of, measures, share
from pipelines.evaluation.significance import Interval, intervals

BINS = 15  # of the calibration error, as in Guo et al. (2017)


POINTS = 500  # of a curve, at most


@dataclass(frozen=True)
class Answers:
    """A system's answers to N held-out texts of K labels.

    Attributes:
        truth, predicted: (N,) classes.
        probabilities: (N, K).
        labels: the name of each class. Labels that training never saw are the last.
        positive: the class that precision, recall and F1 are about, None if it is unknown.
        n_known: number of labels that training saw. For two of them, ROC-AUC, average precision and their curves
            are about the positive one. For more, they are the mean of each label against the rest.
    """

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    labels: Sequence[str]
    positive: int | None
    n_known: int

    @property
    def ranked(self) -> list[int]:
        """The classes that some texts have and others do not, so that texts can be ranked by their probability."""
        classes = [self.positive] if self.n_known == 2 else range(len(self.labels))
        return [each for each in classes if each is not None and 0 < (self.truth == each).sum() < len(self.truth)]

    @cached_property
    def hits(self) -> Rows:
        """(N, 3K) ones and zeros: for each class, whether a text is correctly predicted, predicted, or true."""
        one_hot = np.eye(len(self.labels))
        predicted, real = one_hot[self.predicted], one_hot[self.truth]
        return np.concatenate([predicted * real, predicted, real], 1)

    @cached_property
    def areas(self) -> Callable[[Rows], Rows]:
        """A function from weights (R, N) to (2, R) areas under the ROC curve and average precisions, label means."""
        pairs = [(self.truth == each, self.probabilities[:, each]) for each in self.ranked]

        def areas(weights: Rows) -> Rows:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # resamples in which no label has both texts and others
                return np.nanmean([_areas(*pair, weights) for pair in pairs], axis=0)

        return areas

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """(N,) the probability of the likeliest class."""
        return self.probabilities.max(axis=1)

    @cached_property
    def likeliest_is_right(self) -> NDArray[np.bool_]:
        """(N,) whether the likeliest class is the true one."""
        return self.probabilities.argmax(axis=1) == self.truth

    @cached_property
    def bins(self) -> NDArray[np.float64]:
        """(N, BINS) one in the bin of a text's confidence."""
        return np.eye(BINS)[np.minimum((self.confidence * BINS).astype(int), BINS - 1)]


# What each metric measures


RATIOS = ("precision", "recall", "f1")


def _ratios(name: str, sums: Rows) -> Rows:
    """Return precision, recall or F1 of each class, (..., K), from sums of `Answers.hits`."""
    hits, predicted, real = np.split(sums, 3, axis=-1)
    if name == "f1":
        return share(2 * hits, predicted + real)
    return share(hits, predicted if name == "precision" else real)


def _ratio(name: str, answers: Answers, at: int | None = None) -> Measure | None:
    """Measure precision, recall or F1 of one class, by default the positive one."""
    at, k = answers.positive if at is None else at, len(answers.labels)
    return None if at is None else Measure(answers.hits, lambda sums: _ratios(name, sums[..., at::k])[..., 0])


def _macro(name: str, answers: Answers) -> Measure:
    """Measure the mean of precision, recall or F1 over the labels that are true or predicted for some text."""
    k = len(answers.labels)
    return Measure(answers.hits, lambda sums: _mean(_ratios(name, sums), sums[..., k : 2 * k] + sums[..., 2 * k :] > 0))


def _balanced_accuracy(answers: Answers) -> Measure:
    """Measure the mean recall of the true labels."""
    k = len(answers.labels)
    return Measure(answers.hits, lambda sums: _mean(_ratios("recall", sums), sums[..., 2 * k :] > 0))


def _mean(values: Rows, where: NDArray[np.bool_]) -> Rows:
    return np.where(where, values, 0).sum(axis=-1) / where.sum(axis=-1)


def _ranking(at: int, score: str, answers: Answers) -> Measure | None:
    """Measure how well the probabilities rank the texts, with scikit-learn's value."""
    if not answers.ranked:
        return None
    from sklearn import metrics as sk

    pairs = [(answers.truth == each, answers.probabilities[:, each]) for each in answers.ranked]
    exact = float(np.mean([getattr(sk, score)(*pair) for pair in pairs]))
    return Measure(answers.areas, lambda areas: areas[at], exact=exact)


def _areas(true: NDArray[np.bool_], scores: NDArray, weights: Rows) -> tuple[Rows, Rows]:
    """Return (R,) areas under the ROC curve and average precisions; NaN where a resample has texts of one kind only."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores count at once
    hits = np.cumsum(weights[:, order] * true[order], axis=1)[:, ends]
    alarms = np.cumsum(weights[:, order] * ~true[order], axis=1)[:, ends]
    positives, negatives = hits[:, -1], alarms[:, -1]
    new_hits = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        below = np.diff(alarms, axis=1, prepend=0) * (hits - new_hits / 2)
        auc = below.sum(axis=1) / np.where(negatives > 0, positives * negatives, np.nan)
        return auc, (new_hits * share(hits, hits + alarms)).sum(axis=1) / positives


def _calibration_error(answers: Answers) -> Measure:
    """Measure the expected calibration error (Naeini et al. 2015, Guo et al. 2017).

    It is the distance of the likeliest class's probability from how often that class is right: the mean over bins of
    equal width, weighted by their texts.
    """
    n, errors = len(answers.truth), answers.likeliest_is_right - answers.confidence
    exact = float(np.abs(errors @ answers.bins).sum() / n)
    return Measure(errors[:, None] * answers.bins, lambda sums: np.abs(sums).sum(axis=-1) / n, exact=exact)


def _brier(answers: Answers) -> Measure:
    """Measure the mean squared distance of the probabilities from the truth; half of it for two classes, as usual."""
    errors = (answers.probabilities - np.eye(len(answers.labels))[answers.truth]) ** 2
    rows = errors.sum(axis=1) / (2 if answers.n_known == 2 else 1)
    return Measure(rows, lambda sums: sums / len(rows))


ANSWERS = ("answers",)


METRICS = {
    "accuracy": Metric(lambda answers: mean_of(answers.predicted == answers.truth), ANSWERS, right_or_wrong=True),
    "balanced_accuracy": Metric(_balanced_accuracy, ANSWERS),
    **{name: Metric(partial(_ratio, name), ANSWERS) for name in RATIOS},
    **{f"{name}_macro": Metric(partial(_macro, name), ANSWERS) for name in RATIOS},
    "roc_auc": Metric(partial(_ranking, 0, "roc_auc_score"), ANSWERS, title="ROC-AUC"),
    "average_precision": Metric(partial(_ranking, 1, "average_precision_score"), ANSWERS),
    "calibration_error": Metric(_calibration_error, ANSWERS, lower_is_better=True),
    "brier": Metric(_brier, ANSWERS, title="Brier score", lower_is_better=True),
}


COMPARED = ("accuracy", "precision", "recall", "f1", "f1_macro", "balanced_accuracy")
"""The metrics that a comparison tests, in its order."""


def items(columns: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, Answers]:
    """Return the answers in the columns of predictions, which lack the probabilities of every class."""
    truth, predicted, positive = columns["truth"], columns["label"], statistics.get("positive")
    labels = sorted({*truth, *predicted, *([positive] if positive else [])})
    classes, true_classes = (np.array([labels.index(label) for label in each]) for each in (predicted, truth))
    at = labels.index(positive) if positive else None
    return {"answers": Answers(true_classes, classes, np.zeros((len(truth), 0)), labels, at, len(labels))}


def measure_classes(answers: Answers) -> dict[str, Measure]:
    """Return the metrics of a system, and `precision/LABEL`, `recall/LABEL` and `f1/LABEL` of each label.

    The values are scikit-learn's to the last digit. A ratio with nothing to divide by counts as 0. A metric without a
    meaning is left out, such as the ROC-AUC of texts of one class.
    """
    by_label = {
        f"{name}/{label}": Metric(partial(_ratio, name, at=at), ANSWERS)
        for name in RATIOS
        for at, label in enumerate(answers.labels)
    }
    return measures(METRICS | by_label, {"answers": answers})


def with_intervals(answers: Answers) -> dict[str, Interval]:
    """Return the values of a system's metrics with intervals over the texts."""
    return intervals(measure_classes(answers), most=max(1000, 10_000 // len(answers.labels)))


# Curves


CURVES = pa.schema(
    {**dict.fromkeys(("system", "label", "curve"), pa.string()), **dict.fromkeys(("x", "y", "threshold"), pa.float64())}
)
"""A point of a curve. The kinds of curves and their axes:

- `roc`: false positive rate, true positive rate, and the threshold of the probability.
- `precision_recall`: recall, precision, and the threshold of the probability.
- `calibration`: mean probability of the likeliest label in a bin, and how often that label is right.
"""


def curves(system: str, answers: Answers) -> pa.Table:
    """Return the ROC and precision-recall curves of each ranked label, and the calibration of the likeliest label."""
    from sklearn import metrics as sk

    parts = []
    for each in answers.ranked:
        true, scores, label = answers.truth == each, answers.probabilities[:, each], answers.labels[each]
        alarms, hits, thresholds = sk.roc_curve(true, scores)
        parts.append(_curve(system, label, "roc", alarms, hits, thresholds))
        precision, recall, thresholds = sk.precision_recall_curve(true, scores, drop_intermediate=True)
        parts.append(_curve(system, label, "precision_recall", recall, precision, np.append(thresholds, np.nan)))
    sizes = answers.bins.sum(axis=0)
    filled = sizes > 0
    x, y = ((each @ answers.bins)[filled] / sizes[filled] for each in (answers.confidence, answers.likeliest_is_right))
    parts.append(_curve(system, None, "calibration", x, y, np.full(len(x), np.nan)))
    return pa.concat_tables(parts)


def _curve(system: str, label: str | None, curve: str, x: NDArray, y: NDArray, thresholds: NDArray) -> pa.Table:
    """Return at most POINTS points of a curve. Thresholds that are not finite are left out."""
    at = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(int))
    known = np.where(np.isfinite(thresholds[at]), thresholds[at], np.nan)
    values = [[system] * len(at), [label] * len(at), [curve] * len(at), x[at], y[at]]
    return pa.table([*values, pa.array(known, from_pandas=True)], schema=CURVES)
