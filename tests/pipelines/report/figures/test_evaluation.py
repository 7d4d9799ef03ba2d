"""Figures about evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpt.config import Config
from pipelines.report.figures.kinds import parts
from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener, StepType
from pipelines.store.store import Store

TABLES: dict[str, dict[str, list[Any]]] = {
    "metrics": {
        "system": ["model", "unigram"],
        "metric": ["f1", "f1"],
        "value": [0.9, 0.5],
        "low": [0.8, None],
        "high": [0.95, None],
    },
    "predictions": {"item": ["a"], "truth": ["spam"]},
    "confusion": {"truth": ["spam", "spam"], "predicted": ["ham", "spam"], "count": [1, 9]},
    "curves": {
        "system": ["model"] * 4,
        "label": ["spam"] * 2 + [None] * 2,
        "curve": ["roc"] * 2 + ["calibration"] * 2,
        "x": [0.0, 1] * 2,
        "y": [0.0, 1] * 2,
    },
}


def evaluation(folder: Path, tables: dict[str, dict[str, list[Any]]] = TABLES) -> Dataset:
    def run(out: Path, scratch: Path) -> dict[str, Any]:
        for name, columns in tables.items():
            pq.write_table(pa.table(columns), out / f"{name}.parquet")
        return {}

    return Store(folder).build(StepType("evaluate", "evaluation", 1, Config, run).using("x", Config()), run)


def test_classifier_has_baselines_confusion_and_curves(tmp_path: Path, strict: Listener) -> None:
    found = {part.title: part for part in parts(evaluation(tmp_path), {}, strict.warn)}
    assert {"ROC", "Calibration", "Confusion matrix"} <= set(found)
    assert found["F1, beside baselines"].rows == [("f1", "0.9 [0.8, 0.95]", "0.5")]
    assert found["F1, beside baselines"].note == "Higher is better. Lines are 95% intervals."


def test_many_long_labels_make_a_page_of_bounded_size(tmp_path: Path, strict: Listener) -> None:
    labels = [f"{'long label ' * 30}{i:03}" for i in range(300)]
    metrics = ["accuracy", "f1", *(f"{name}/{label}" for label in labels for name in ("precision", "recall", "f1"))]
    n, curve = len(metrics), {"x": [0.0, 1] * 300, "y": [0.0, 1] * 300, "curve": ["roc"] * 600}
    tables = {
        "metrics": {
            "system": ["model"] * n,
            "metric": metrics,
            "value": [0.5] * n,
            "low": [0.4] * n,
            "high": [0.6] * n,
        },
        "predictions": {"item": labels, "truth": labels},
        "confusion": {"truth": labels * 2, "predicted": labels + labels[::-1], "count": [1] * 600},
        "curves": {"system": ["model"] * 600, "label": [each for each in labels for _ in range(2)], **curve},
    }
    found = {part.title: part for part in parts(evaluation(tmp_path, tables), {}, strict.warn)}
    assert found["Accuracy, beside baselines"].note.endswith("The first 200 of 902 metrics.")
    assert found["Confusion matrix"].note == "The 20 most frequent of 300 labels."
    assert found["ROC"].svg.count('class="line"') == 10
    size = sum(len(part.svg) + sum(len(str(cell)) for row in part.rows for cell in row) for part in found.values())
    assert size < 800_000
