"""The tasks that models are evaluated on: how their metrics are named, measured and compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.evaluation import answer_metrics, classification_metrics, language_metrics, memorisation
from pipelines.evaluation.metrics import Metric, mean_of

Columns = Mapping[str, Any]

TRIAL = "trial"
"""The first part of the names of all metrics that the promotion gate reads, and the kind of dataset that has them."""


@dataclass(frozen=True)
class Task:
    """What all evaluations of a task share.

    Attributes:
        stage: the first part of the names of its statistics.
        question: the columns of `predictions.parquet` that say what was asked.
        metrics: the definitions of its metrics by name.
        compared: the metrics that are tested when two models are compared, in this order.
        items: (columns of the predictions, statistics) -> the columns of the compared metrics.
    """

    stage: str
    question: tuple[str, ...]
    metrics: Mapping[str, Metric]
    compared: tuple[str, ...]
    items: Callable[[Columns, Columns], Columns] = lambda columns, statistics: columns


CHOICE_METRICS = {
    "accuracy": Metric(mean_of, ("right",), right_or_wrong=True),
    "accuracy_normalised": Metric(mean_of, ("right_normalised",), right_or_wrong=True),
}


TASKS = {
    "language": Task("test", ("item",), language_metrics.METRICS | memorisation.METRICS, language_metrics.COMPARED),
    "classification": Task(
        "classify",
        ("item", "truth"),
        classification_metrics.METRICS,
        classification_metrics.COMPARED,
        classification_metrics.items,
    ),
    "instruction": Task("instruct", ("item", "response"), answer_metrics.METRICS, answer_metrics.COMPARED),
    "choice": Task("task", ("item", "answer"), CHOICE_METRICS, tuple(CHOICE_METRICS)),
}
"""By the statistic `task` of an evaluation."""


METRICS = {name: metric for task in TASKS.values() for name, metric in task.metrics.items()}
"""By name. Metrics of the same name in several tasks point the same way."""


def title_of(metric: str) -> str:
    """Return the name of a metric for people."""
    known = METRICS.get(metric)
    return known.title if known and known.title else metric.replace("_", " ").capitalize()
