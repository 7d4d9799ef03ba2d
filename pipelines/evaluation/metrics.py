"""The definition of a metric, which its value, its interval and its comparison between two models share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.significance import Measure


@dataclass(frozen=True)
class Metric:
    """The definition of a metric.

    Attributes:
        measure: the metric of items, which is None if it has no meaning for them. None if it is no function of items.
        title: its name for people, if its key in the table does not give it.
        lower_is_better: whether a lower value is better.
        right_or_wrong: whether each item is right or wrong, and the metric is the share of right ones.
        per_token: whether its values depend on the tokenizer.
    """

    measure: Callable[[Any], Measure | None] | None = None
    title: str = ""
    lower_is_better: bool = False
    right_or_wrong: bool = False
    per_token: bool = False


def measures(metrics: Mapping[str, Metric], items: Any) -> dict[str, Measure]:
    """Return the metrics that have a meaning for the items, by name."""
    found = {name: metric.measure(items) for name, metric in metrics.items() if metric.measure}
    return {name: measure for name, measure in found.items() if measure}
