"""What every evaluation has in common: metrics by system, every item's prediction, and how both are named.

An evaluation holds `metrics.parquet` (system, metric, value) and `predictions.parquet` (an item a row). The model is
one system among others: its metrics stand in the statistics as `stage/metric`, a baseline's, which sort right behind
them, as `stage-baseline/system/metric`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Metrics = dict[str, float]


MODEL = "model"


def statistics(stage: str, metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """The model's metrics as `stage/metric`, a baseline's as `stage-baseline/system/metric`."""
    return {
        f"{stage}/{metric}" if system == MODEL else f"{stage}-baseline/{key_of(system)}/{metric}": value
        for system, each in metrics.items()
        for metric, value in each.items()
    }


def key_of(system: str) -> str:
    return system.lower().replace(" ", "_").replace("-", "_")


def write_evaluation(out: Path, metrics: Mapping[str, Metrics], predictions: pa.Table) -> None:
    rows = [(system, name, value) for system, each in metrics.items() for name, value in each.items()]
    systems, names, values = zip(*rows, strict=True)
    table = pa.table({"system": list(systems), "metric": list(names), "value": list(values)})
    pq.write_table(table, out / "metrics.parquet", compression="zstd")
    pq.write_table(predictions, out / "predictions.parquet", compression="zstd")
