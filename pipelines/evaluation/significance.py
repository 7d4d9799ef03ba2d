"""Is one model better than another, or was it luck? Paired tests over the items that both were judged on.

A metric here is a function of sums over items: a mean is a sum over a count, F1 a ratio of sums of hits and errors,
chrF one of sums of matching n-grams. So resampling items is weighting rows before they are summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


OfSums = Callable[[Rows], Rows]
"""(..., K) sums of K quantities over items to (...) values of a metric."""


RESAMPLES = 10_000


LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and where it would lie in 95% of resamples of the items (percentile bootstrap, Efron 1979)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two systems on the same items: the metric of each, and second minus first with its two-sided p-value."""

    first: Interval
    second: Interval
    difference: Interval
    p: float


def paired_bootstrap(first: Rows, second: Rows, of_sums: OfSums, seed: int = 0) -> Paired:
    """The paired bootstrap test (Koehn 2004): both systems are summed over the same resampled items.

    p is twice the share of resamples in which the difference has the other sign or none.

    Args:
        first, second: (N, K) quantities of each item.
        of_sums: the metric of their sums.
    """
    drawn_first, drawn_second = [], []
    for weights in resamples(len(first), seed):  # (R, N)
        drawn_first.append(of_sums(weights @ first))
        drawn_second.append(of_sums(weights @ second))
    a, b = np.concatenate(drawn_first), np.concatenate(drawn_second)
    value_a, value_b = float(of_sums(first.sum(0))), float(of_sums(second.sum(0)))
    difference = b - a
    tail = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
    return Paired(
        interval(value_a, a),
        interval(value_b, b),
        interval(value_b - value_a, difference),
        min(1.0, 2 * (tail + 1) / (len(difference) + 1)),
    )


def bootstrap(rows: Rows, of_sums: OfSums) -> Interval:
    """A metric with its interval, from (N, K) quantities of each item."""
    drawn = np.concatenate([of_sums(weights @ rows) for weights in resamples(len(rows))])
    return interval(float(of_sums(rows.sum(0))), drawn)


def mean_interval(values: NDArray[np.bool_] | Rows) -> Interval:
    """The mean of each item's value (N,), with its interval."""
    rows = np.stack([values, np.ones(len(values))], 1).astype(np.float64)
    return bootstrap(rows, lambda sums: sums[..., 0] / sums[..., 1])


def share(part: Rows, whole: Rows) -> Rows:
    """part / whole, 0 where there is nothing."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def class_ratios(right: Rows, said: Rows, real: Rows) -> dict[str, Rows]:
    """Precision, recall and F1 of each class, 0 where there is nothing to divide by.

    Args:
        right, said, real: (..., classes) how many items were rightly put into a class, were put into it, belong to it.
    """
    return {"precision": share(right, said), "recall": share(right, real), "f1": share(2 * right, said + real)}


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The exact two-sided p-value of McNemar's test (1947): of the items that one system alone gets right, is the
    share of either so far from a half?

    Args:
        first, second: (N,) whether each system got each item right.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    from scipy.stats import binomtest  # half a second, which few who come here have to wait

    return float(binomtest(only_first, only_first + only_second).pvalue)


def resamples(n: int, seed: int = 0, most: int = RESAMPLES) -> Iterator[Rows]:
    """How often each of n items is drawn, (R, N), for all resamples, a few at a time."""
    rng = np.random.default_rng(seed)
    left = int(np.clip(2e8 / n, 1000, most))  # for very many items fewer do
    while left:
        some = min(left, max(1, int(1e6 / n)))
        drawn = rng.integers(0, n, (some, n)) + n * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * n).reshape(some, n).astype(np.float64)
        left -= some


def interval(value: float, drawn: Rows) -> Interval:
    """A value with the interval that its resamples (R,) give; those in which it has no meaning are NaN."""
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
