"""The tasks that models are evaluated on: how their metrics are named, measured and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.evaluation import (
    answer_metrics,
    choice_metrics,
    classification_metrics,
    language_metrics,
    memorisation,
)
from pipelines.evaluation.metrics import Metric


@dataclass(frozen=True)
class Task:
    """What all evaluations of a task share.

    Attributes:
        stage: the first part of the names of its statistics.
        question: the columns of `predictions.parquet` that say what was asked.
        metrics: the definitions of its metrics by name.
        compared: the metrics that are tested when two models are compared, in this order.
        items: (predictions, statistics) -> what the compared metrics measure.
    """

    stage: str
    question: tuple[str, ...]
    metrics: Mapping[str, Metric]
    compared: tuple[str, ...]
    items: Callable[[pa.Table, Mapping[str, Any]], Any]


TASKS = {
    "language": Task(
        "test",
        ("item",),
        {**language_metrics.METRICS, **memorisation.METRICS},
        language_metrics.COMPARED,
        lambda table, statistics: language_metrics.Documents.of_predictions(table),
    ),
    "classification": Task(
        "classify",
        ("item", "truth"),
        classification_metrics.METRICS,
        classification_metrics.COMPARED,
        lambda table, statistics: classification_metrics.Answers.of_predictions(table, statistics.get("positive")),
    ),
    "instruction": Task(
        "instruct",
        ("item", "response"),
        answer_metrics.METRICS,
        answer_metrics.COMPARED,
        lambda table, statistics: answer_metrics.WrittenAnswers.of_predictions(table),
    ),
    "choice": Task(
        "task",
        ("item", "answer"),
        choice_metrics.METRICS,
        choice_metrics.COMPARED,
        lambda table, statistics: choice_metrics.Choices.of_predictions(table),
    ),
}
"""By the statistic `task` of an evaluation."""


METRICS = {name: metric for task in TASKS.values() for name, metric in task.metrics.items()}
"""By name. Metrics of the same name in several tasks point the same way."""


def title_of(metric: str) -> str:
    """Return the name of a metric for people."""
    known = METRICS.get(metric)
    return known.title if known and known.title else metric.replace("_", " ").capitalize()
