"""Bootstrap intervals of metrics, and paired tests of two models on the same items."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.metrics import Measure, Rows

RESAMPLES = 10_000


LEVEL = 0.95


Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A value and its range in 95% of resamples of the items (percentile bootstrap, Efron 1979)."""

    value: float
    low: float
    high: float


def intervals(measures: Mapping[str, Measure], most: int = RESAMPLES) -> dict[str, Interval]:
    """Return the value of each measure of the same items, with its interval.

    Args:
        measures: by name. At least one has rows.
        most: number of resamples; fewer are drawn of very many items.
    """
    found = {}
    for name, values in _draw(measures, most).items():
        low, high = map(measures[name].scale, ends(values))
        found[name] = Interval(measures[name].value, low, high)
    return found


def _draw(measures: Mapping[Name, Measure], most: int = RESAMPLES) -> dict[Name, Rows]:
    """Return the values (R,) of each measure of the same items in all resamples, before `scale`."""
    n_items = next(len(measure.rows) for measure in measures.values() if not callable(measure.rows))
    portions = [resampled(measures, weights) for weights in resamples(n_items, most)]
    return {name: np.concatenate([portion[name] for portion in portions]) for name in measures}


def resampled(measures: Mapping[Name, Measure], weights: Rows) -> dict[Name, Rows]:
    """Return the values (R,) of each measure in R resamples, before `scale`.

    Args:
        measures: by name. Those that share their rows are summed once.
        weights: (R, N) how often each item is drawn.
    """
    rows = {id(measure.rows): measure.rows for measure in measures.values()}
    sums = {key: each(weights) if callable(each) else weights @ each for key, each in rows.items()}
    return {name: measure.of_sums(sums[id(measure.rows)]) for name, measure in measures.items()}


def resamples(n: int, most: int = RESAMPLES) -> Iterator[Rows]:
    """Yield how often each of n items is drawn, (R, N), for all resamples in portions. They are always the same."""
    rng = np.random.default_rng(0)
    left = int(np.clip(2e8 / n, 1000, most))
    while left:
        some = min(left, max(1, int(1e6 / n)))
        drawn = rng.integers(0, n, (some, n)) + n * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * n).reshape(some, n).astype(np.float64)
        left -= some


def ends(drawn: Rows) -> tuple[float, float]:
    """Return the ends of the interval of resampled values (R,). NaN marks resamples without a value."""
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


# Paired tests


@dataclass(frozen=True)
class Paired:
    """A metric of two systems on the same items, and second minus first.

    p: the two-sided p-value. None without a test.
    """

    first: Interval
    second: Interval
    difference: Interval
    p: float | None


def paired_bootstrap(first: Mapping[str, Measure], second: Mapping[str, Measure]) -> dict[str, Paired]:
    """Run the paired bootstrap test (Koehn 2004): both systems are summed over the same resampled items.

    p is twice the share of resamples in which the difference has the other sign or none.

    Args:
        first, second: measures of the same items by name. Names that only one has are left out.
    """
    found = {}
    both = {(name, side): each[name] for side, each in enumerate((first, second)) for name in first if name in second}
    drawn = {key: _scaled(both[key], values) for key, values in _draw(both).items()}
    for name in (name for name in first if name in second):
        a, b = drawn[name, 0], drawn[name, 1]
        values = first[name].value, second[name].value
        tail = min(int((b <= a).sum()), int((b >= a).sum()))
        found[name] = Paired(
            Interval(values[0], *ends(a)),
            Interval(values[1], *ends(b)),
            Interval(values[1] - values[0], *ends(b - a)),
            min(1.0, 2 * (tail + 1) / (len(a) + 1)),
        )
    return found


def randomisation(first: Measure, second: Measure, significance: float = 0.05) -> float | None:
    """Return the two-sided p-value of the paired randomisation test (Fisher 1935; Noreen 1989).

    Without a true difference, the systems' results on an item may be exchanged. p is the share of random exchanges
    with a difference as large as the observed one. This holds for any number of items, so a decision may rest on it.

    Args:
        first, second: the same metric of two systems on the same items.
        significance: the level that p is compared with. A small one takes more exchanges.

    Returns:
        None if the metric is no function of sums over items.
    """
    if callable(first.rows) or callable(second.rows):
        return None
    a, b, change = first.rows.sum(0), second.rows.sum(0), second.rows - first.rows
    n, rng = len(change), np.random.default_rng(0)
    draws = int(max(np.clip(2e8 / n, 1000, RESAMPLES), 20 / significance))

    def difference(moved: Rows) -> Rows:
        """Return (R,) second minus first after changes (R, K) of the first's sums."""
        systems = (first, a + moved), (second, b - moved)
        one, other = (_scaled(measure, np.asarray(measure.of_sums(sums))) for measure, sums in systems)
        return np.abs(other - one)

    observed, found = float(difference(0 * change[:1])[0]), 0
    for at in range(0, draws, portion := max(1, int(1e6 / n))):
        exchanged = rng.integers(0, 2, (min(portion, draws - at), n)).astype(np.float64)
        found += int((difference(exchanged @ change) >= observed * (1 - 1e-9)).sum())
    return (found + 1) / (draws + 1)


def _scaled(measure: Measure, values: Rows) -> Rows:
    return values if measure.scale is float else np.array([measure.scale(value) for value in values.tolist()])


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the exact two-sided p-value of McNemar's test (1947).

    The test asks whether the items that only one system gets right are split evenly between the systems.

    Args:
        first, second: (N,) whether each system got each item right.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    from scipy.stats import binomtest  # takes half a second, and most callers need no test

    return float(binomtest(only_first, only_first + only_second).pvalue)
