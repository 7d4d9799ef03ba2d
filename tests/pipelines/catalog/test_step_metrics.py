"""The metrics of steps: each once, with the model that it is about."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.catalog import step_metrics

WEIGHTS = "ab" * 32


@pytest.fixture
def uri(tmp_path: Path, track: Callable[[Path], None]) -> str:
    """A database with a flow's run that carries copies, a training that is under way, and an evaluation."""
    track(tmp_path)
    tags = {
        "flow": {"kind": "flow"},
        "r1": {"kind": "model", "step": "pretrain", "dataset": "small", "fingerprint": WEIGHTS},
        "judge": {
            "kind": "evaluation",
            "task": "language",
            "inputs": json.dumps({"model": "model/small@abababababab"}),
        },
        "data": {"kind": "corpus", "step": "ingest", "dataset": "texts", "fingerprint": "cd" * 32},
        "other": {},
    }
    metrics = [
        ("flow", "val/loss", 3.5),
        ("flow", "test/loss", 3.6),
        ("flow", "system/cpu", 50),
        ("judge", "test/loss", 3.6),
        ("data", "documents", 7),
        ("other", "loss", 1),
    ]
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        for run_id in tags.keys() - {"r1"}:
            database.execute("INSERT INTO runs VALUES (?, ?, 1, 'FINISHED', 1, 2, 'active', 'x')", (run_id, run_id))
        for run_id, each in tags.items():
            pairs = [(run_id, f"tokenmill.{key}", value) for key, value in each.items()]
            database.executemany("INSERT INTO tags VALUES (?, ?, ?)", pairs)
        database.executemany("INSERT INTO metrics VALUES (?, ?, 0, ?, 1, 0)", metrics)
        database.execute("INSERT INTO model_versions VALUES ('small', 3, 1, 'None')")
        database.execute("INSERT INTO model_version_tags VALUES ('small', 3, 'tokenmill.fingerprint', ?)", (WEIGHTS,))
    return f"sqlite:///{tmp_path}/mlruns/mlflow.db"


def test_metrics_stand_once_and_name_task_model_version_and_stage(uri: str) -> None:
    columns = ["run_id", "metric", "model", "version", "task", "stage"]
    found = step_metrics.read(uri).select(columns).to_pylist()
    assert sorted({tuple(row.values()) for row in found}, key=str) == [
        ("data", "documents", None, None, None, None),
        ("flow", "system/cpu", None, None, None, "system"),
        ("judge", "test/loss", "small", 3, "language", "test"),
        ("other", "loss", None, None, None, None),
        ("r1", "val/loss", "small", 3, "language", "val"),
        ("r1", "val/oops", "small", 3, "language", "val"),
    ]
    assert len(found) == 7  # one curve has two points
