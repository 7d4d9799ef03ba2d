"""The decision threshold of two classes: the lowest probability at which a text is positive."""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]


Quality = Callable[[Counts, Counts, int, int], Counts]
"""(hits, false alarms, positives, negatives) at each threshold to the quality of each threshold."""


METRICS: dict[str, Quality] = {
    "f1": lambda hits, alarms, positives, negatives: 2 * hits / (hits + alarms + positives),
    # Youden's J (1950) is the same, scaled to run from -1 to 1, and chooses the same threshold.
    "balanced_accuracy": lambda hits, alarms, positives, negatives: (hits / positives - alarms / negatives + 1) / 2,
    "accuracy": lambda hits, alarms, positives, negatives: (hits + negatives - alarms) / (positives + negatives),
}


PRECISION = re.compile(r"precision:(0\.\d+|1(?:\.0*)?)")


def check(metric: str) -> str:
    """Return the name of a metric if `choose_threshold` knows it.

    Raises:
        ValueError: the metric is unknown.
    """
    if metric not in METRICS and not PRECISION.fullmatch(metric):
        known = ", ".join(METRICS)
        raise ValueError(f"{metric!r} chooses no threshold: take {known}, or precision:P with P up to 1")
    return metric


def choose_threshold(positive: NDArray[np.bool_], probabilities: NDArray[np.floating], metric: str) -> float | None:
    """Return the threshold that is best on held-out texts.

    A threshold is midway between two neighbouring probabilities. Among equally good ones the closest to a half is
    returned, since it changes the model's decisions least.

    Args:
        positive: (N,) whether a text has the positive class.
        probabilities: (N,) its probability of being so.
        metric: a name in METRICS, or `precision:P` for the highest recall at a precision of at least P. If no
            threshold reaches P, the one with the highest precision is best.

    Returns:
        A probability from 0 to 1, or None if all texts are of one class.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    order = np.argsort(-probabilities, kind="stable")
    ordered, right = probabilities[order], positive[order]
    hits, alarms = np.cumsum(right, dtype=np.float64), np.cumsum(~right, dtype=np.float64)
    cuts = np.append(ordered[:-1] > ordered[1:], True)  # equal probabilities are on the same side
    if at_least := PRECISION.fullmatch(metric):
        precision, recall = hits / (hits + alarms), hits / positives
        quality = np.where(precision >= float(at_least[1]), 1 + recall, precision)
    else:
        quality = METRICS[check(metric)](hits, alarms, positives, negatives)
    thresholds = (ordered + np.append(ordered[1:], 0.0)) / 2
    best = cuts & (quality >= quality[cuts].max())
    return float(min(thresholds[best], key=lambda threshold: abs(threshold - 0.5)))
