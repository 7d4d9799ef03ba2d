"""Metrics of multiple choice: whether the likeliest choice is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.evaluation.metrics import Metric
from pipelines.evaluation.significance import mean_of


@dataclass(frozen=True)
class Choices:
    """Whether the choice is right, (N,), if it is the likeliest, and if it is the likeliest per character."""

    right: NDArray[np.bool_]
    right_normalised: NDArray[np.bool_]

    @classmethod
    def of_predictions(cls, table: pa.Table) -> Choices:
        """Read the model's columns of `predictions.parquet`."""
        return cls(table["model_right"].to_numpy(), table["model_right_normalised"].to_numpy())


METRICS = {
    "accuracy": Metric(lambda choices: mean_of(choices.right), right_or_wrong=True),
    "accuracy_normalised": Metric(lambda choices: mean_of(choices.right_normalised), right_or_wrong=True),
}


COMPARED = tuple(METRICS)
