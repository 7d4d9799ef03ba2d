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


def evaluation(folder: Path) -> Dataset:
    def run(out: Path, scratch: Path) -> dict[str, Any]:
        for name, columns in TABLES.items():
            pq.write_table(pa.table(columns), out / f"{name}.parquet")
        return {}

    return Store(folder).build(StepType("evaluate", "evaluation", 1, Config, run).using("x", Config()), run)


def test_classifier_has_baselines_confusion_and_curves(tmp_path: Path, strict: Listener) -> None:
    found = {part.title: part for part in parts(evaluation(tmp_path), {}, strict.warn)}
    assert {"ROC", "Calibration", "Confusion matrix"} <= set(found)
    assert found["F1, beside baselines"].rows == [("f1", "0.9 [0.8, 0.95]", "0.5")]
    assert found["F1, beside baselines"].note == "Higher is better. Lines are 95% intervals."
