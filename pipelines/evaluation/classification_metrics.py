"""What a classifier is worth on held-out texts: scikit-learn's metrics, each with a bootstrap interval, and curves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn import metrics as sk

from pipelines.evaluation.significance import Interval, class_ratios, interval, resamples, share

BINS = 15
"""Of the calibration error, as in Guo et al. (2017)."""


POINTS = 500
"""Of a curve, at most."""


@dataclass(frozen=True)
class Answers:
    """What a system said to N held-out texts of K labels.

    truth, predicted: (N,) classes.
    probabilities: (N, K).
    labels: the name of each class, those that training never saw behind those it did.
    positive: the class that precision, recall and F1 are about.
    n_known: how many labels training saw. Of two, ROC-AUC, average precision and their curves are the positive one's;
        of several they are the mean of each label against the rest.
    """

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    labels: Sequence[str]
    positive: int
    n_known: int

    @property
    def ranked(self) -> list[int]:
        """The classes whose ranking of texts is judged: there are texts of it, and others."""
        classes = [self.positive] if self.n_known == 2 else list(range(len(self.labels)))
        return [each for each in classes if 0 < (self.truth == each).sum() < len(self.truth)]

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """(N,) the probability of the likeliest class."""
        return self.probabilities.max(axis=1)

    @cached_property
    def likeliest_is_right(self) -> NDArray[np.bool_]:
        """(N,) whether it is the true one."""
        return self.probabilities.argmax(axis=1) == self.truth

    @cached_property
    def bins(self) -> NDArray[np.float64]:
        """(N, BINS) one where a text's confidence falls."""
        return np.eye(BINS)[np.minimum((self.confidence * BINS).astype(int), BINS - 1)]

    @cached_property
    def squared_errors(self) -> NDArray[np.float64]:
        """(N,) squared distances of the probabilities from the truth; of two classes half of that, as is the custom."""
        errors = (self.probabilities - np.eye(len(self.labels))[self.truth]) ** 2
        return errors.sum(axis=1) / (2 if self.n_known == 2 else 1)


def classification_metrics(answers: Answers) -> dict[str, float]:
    """A system's metrics by name; `precision/LABEL`, `recall/LABEL` and `f1/LABEL` are those of each label.

    A ratio with nothing below counts as 0. Macro means are over the labels that are true or predicted of some text.
    What has no meaning on these texts, such as the ROC-AUC where all are of one class, is not there.
    """
    truth, predicted = answers.truth, answers.predicted
    each = sk.precision_recall_fscore_support(
        truth, predicted, labels=range(len(answers.labels)), average=None, zero_division=0
    )
    macro = sk.precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of predicted classes of which there is no text
        balanced = sk.balanced_accuracy_score(truth, predicted)
    found = {"accuracy": sk.accuracy_score(truth, predicted), "balanced_accuracy": balanced}
    found |= {name: values[answers.positive] for name, values in zip(RATIOS, each, strict=False)}
    found |= {f"{name}_macro": value for name, value in zip(RATIOS, macro, strict=False)}
    if ranked := answers.ranked:
        scores = answers.probabilities[:, ranked]
        true = truth[:, None] == np.array(ranked)
        found["roc_auc"] = np.mean([sk.roc_auc_score(*pair) for pair in zip(true.T, scores.T, strict=True)])
        found["average_precision"] = np.mean(
            [sk.average_precision_score(*pair) for pair in zip(true.T, scores.T, strict=True)]
        )
    found["calibration_error"] = calibration_error(answers)
    found["brier"] = answers.squared_errors.mean()
    for name, values in zip(RATIOS, each, strict=False):
        found |= {f"{name}/{label}": value for label, value in zip(answers.labels, values, strict=True)}
    return {name: float(value) for name, value in found.items()}


RATIOS = ("precision", "recall", "f1")


def calibration_error(answers: Answers) -> float:
    """Expected calibration error: how far the likeliest class's probability is from how often it is right.

    The mean over bins of equal width, weighted by their texts (Naeini et al. 2015, Guo et al. 2017).
    """
    return float(np.abs((answers.likeliest_is_right - answers.confidence) @ answers.bins).sum() / len(answers.truth))


def with_intervals(answers: Answers) -> dict[str, Interval]:
    """`classification_metrics` with 95% intervals: the percentile bootstrap over the held-out texts (Efron 1979)."""
    values = classification_metrics(answers)
    most = max(1000, 10_000 // len(answers.labels))
    drawn = [resampled(answers, weights) for weights in resamples(len(answers.truth), most=most)]
    return {name: interval(value, np.concatenate([each[name] for each in drawn])) for name, value in values.items()}


def resampled(answers: Answers, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """`classification_metrics` of R resamples at once, (R,) each, where scikit-learn would take R calls.

    Args:
        weights: (R, N) how often each text is drawn.
    """
    one_hot, n = np.eye(len(answers.labels)), weights.sum(axis=1)
    real, said = weights @ one_hot[answers.truth], weights @ one_hot[answers.predicted]  # (R, K)
    hits = weights @ (one_hot[answers.truth] * one_hot[answers.predicted])
    ratios = class_ratios(hits, said, real)
    seen = (real + said) > 0
    found = {"accuracy": hits.sum(axis=1) / n, "balanced_accuracy": _mean(ratios["recall"], real > 0)}
    found |= {name: values[:, answers.positive] for name, values in ratios.items()}
    found |= {f"{name}_macro": _mean(values, seen) for name, values in ratios.items()}
    if answers.ranked:
        areas = [_areas(answers.truth == each, answers.probabilities[:, each], weights) for each in answers.ranked]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of resamples in which none of the labels has both texts and others
            found["roc_auc"], found["average_precision"] = np.nanmean(areas, axis=0)
    errors = (answers.likeliest_is_right - answers.confidence)[:, None] * answers.bins
    found["calibration_error"] = np.abs(weights @ errors).sum(axis=1) / n
    found["brier"] = weights @ answers.squared_errors / n
    for name, values in ratios.items():
        found |= {f"{name}/{label}": column for label, column in zip(answers.labels, values.T, strict=True)}
    return found


def _mean(values: NDArray, where: NDArray[np.bool_]) -> NDArray:
    return np.where(where, values, 0).sum(axis=1) / where.sum(axis=1)


def _areas(true: NDArray[np.bool_], scores: NDArray, weights: NDArray) -> tuple[NDArray, NDArray]:
    """(R,) areas under the ROC curve and average precisions; NaN where a resample has texts of one kind only."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores count at once
    hits = np.cumsum(weights[:, order] * true[order], axis=1)[:, ends]
    alarms = np.cumsum(weights[:, order] * ~true[order], axis=1)[:, ends]
    positives, negatives = hits[:, -1], alarms[:, -1]
    new_hits = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        below = np.diff(alarms, axis=1, prepend=0) * (hits - new_hits / 2)
        auc = below.sum(axis=1) / np.where(negatives > 0, positives * negatives, np.nan)
        precision = (new_hits * share(hits, hits + alarms)).sum(axis=1) / positives
    return auc, precision


CURVES = pa.schema(
    [
        ("system", pa.string()),
        ("label", pa.string()),
        ("curve", pa.string()),  # roc, precision_recall or calibration
        ("x", pa.float64()),  # false positive rate, recall, or mean probability of the likeliest label in a bin
        ("y", pa.float64()),  # true positive rate, precision, or how often the likeliest label is right
        ("threshold", pa.float64()),  # of the probability, for the first two
    ]
)


def curves(system: str, answers: Answers) -> pa.Table:
    """ROC and precision-recall curve of each ranked label, and the calibration of the likeliest label."""
    rows: list[dict[str, object]] = []

    def add(label: str | None, curve: str, x: NDArray, y: NDArray, thresholds: NDArray | None = None) -> None:
        at = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(int))
        for i in at:
            threshold = None if thresholds is None or not np.isfinite(thresholds[i]) else float(thresholds[i])
            rows.append(
                {"system": system, "label": label, "curve": curve, "x": x[i], "y": y[i], "threshold": threshold}
            )

    for each in answers.ranked:
        true, scores, label = answers.truth == each, answers.probabilities[:, each], answers.labels[each]
        alarms, hits, thresholds = sk.roc_curve(true, scores)
        add(label, "roc", alarms, hits, thresholds)
        precision, recall, thresholds = sk.precision_recall_curve(true, scores, drop_intermediate=True)
        add(label, "precision_recall", recall, precision, np.append(thresholds, np.nan))
    sizes = answers.bins.sum(axis=0)
    filled = sizes > 0
    x, y = answers.confidence @ answers.bins, answers.likeliest_is_right @ answers.bins
    add(None, "calibration", x[filled] / sizes[filled], y[filled] / sizes[filled])
    return pa.Table.from_pylist(rows, CURVES)
