"""The files and statistics of every evaluation.

`metrics.parquet` has the metrics of each system (system, metric, value, and low and high of the 95% interval if there
is one). `predictions.parquet` has a row for each item. The model is one of the systems.

The model's metrics are statistics named `stage/metric`. A baseline's are named `stage-baseline/system/metric`, and the
ends of the model's intervals `stage-interval/metric_low` and `_high`, so that they are sorted behind them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.evaluation.significance import Interval
from pipelines.store.dataset import Dataset
from pipelines.visible import one_line

Metrics = Mapping[str, float | Interval]


MODEL = "model"


def statistics(stage: str, metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """Return metrics by system as statistics of the evaluation."""
    found: dict[str, float] = {}
    for system, each in metrics.items():
        prefix = stage if system == MODEL else f"{stage}-baseline/{key_of(system)}"
        for metric, value in each.items():
            found[f"{prefix}/{metric}"] = value.value if isinstance(value, Interval) else value
            if isinstance(value, Interval) and system == MODEL:
                found[f"{stage}-interval/{metric}_low"] = value.low
                found[f"{stage}-interval/{metric}_high"] = value.high
    return found


def key_of(system: str) -> str:
    """Return a system's name as a part of the names of statistics and columns."""
    return system.lower().replace(" ", "_").replace("-", "_")


METRICS = pa.schema(
    {"system": pa.string(), "metric": pa.string(), "value": pa.float64(), "low": pa.float64(), "high": pa.float64()}
)


def write_evaluation(out: Path, metrics: Mapping[str, Metrics], predictions: pa.Table, **others: pa.Table) -> None:
    """Write the Parquet files of an evaluation.

    Args:
        out: the folder.
        metrics: by system and name.
        predictions: a row for each item.
        others: further tables by name.
    """
    rows = [
        {"system": system, "metric": name}
        | (vars(value) if isinstance(value, Interval) else {"value": value, "low": None, "high": None})
        for system, each in metrics.items()
        for name, value in each.items()
    ]
    tables = {"metrics": pa.Table.from_pylist(rows, METRICS), "predictions": predictions, **others}
    for name, table in tables.items():
        pq.write_table(table, out / f"{name}.parquet", compression="zstd")


def read_metrics(evaluation: Dataset) -> dict[str, dict[str, Interval]]:
    """Return the metrics of an evaluation by system and name, without those that have no value.

    The ends of an interval are None where there is none.
    """
    found: dict[str, dict[str, Interval]] = {}
    for row in pq.read_table(evaluation.file("metrics.parquet")).to_pylist():
        if row["value"] is not None:
            interval = Interval(row["value"], row.get("low"), row.get("high"))
            found.setdefault(row["system"], {})[row["metric"]] = interval
    return found


def beside(
    statistics: Mapping[str, Any],
    stage: str,
    baselines: Mapping[str, str],
    columns: Mapping[str, tuple[str, str]],
    what: str,
) -> str:
    """Return a table of the model and baselines by metrics as aligned text. A missing metric is a dash.

    Args:
        statistics: those of an evaluation.
        stage: the first part of their names.
        baselines: the title of each baseline, by its key in the statistics.
        columns: the name and the format of each metric, by the column's title.
        what: the title of the first column.
    """
    rows = [[what, *columns]]
    prefixes = {stage: "this model"} | {f"{stage}-baseline/{key}": title for key, title in baselines.items()}
    for prefix, system in prefixes.items():
        values = [(statistics.get(f"{prefix}/{key}"), form) for key, form in columns.values()]
        if any(value is not None for value, _ in values):
            rows.append([system, *("-" if value is None else form.format(value) for value, form in values)])
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text, the first column to the left and the others to the right. A label may be in a cell."""
    rows = [[one_line(cell) for cell in row] for row in rows]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = ([row[0].ljust(first), *map(str.rjust, row[1:], others)] for row in rows)
    return "\n".join("  ".join(line) for line in lines)
