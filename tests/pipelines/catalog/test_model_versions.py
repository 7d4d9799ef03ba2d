"""The table of models."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.catalog.catalog import connect
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store

pytestmark = pytest.mark.integration

REGISTRY = """
CREATE TABLE model_versions (name, version, creation_time, current_stage);
CREATE TABLE model_version_tags (name, version, key, value);
CREATE TABLE registered_model_aliases (name, version, alias);
CREATE TABLE registered_model_tags (name, key, value);
"""


def weights(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def test_every_version_has_aliases_decision_and_metrics(tmp_path: Path, publish: Callable[..., Dataset]) -> None:
    store = Store(tmp_path / "data")
    first = publish(store, "model", "gpt", weights, statistics={"task": "language", "parameters": 10})
    second = publish(store, "model", "gpt", weights, statistics={"task": "language", "parameters": 20}, note="2")
    loose = publish(store, "model", "loose", weights, statistics={"task": "language"})
    for loss in (3.0, 2.0):  # judged twice: the newer counts
        statistics: dict[str, Any] = {"task": "language", "test/loss": loss}
        publish(store, "evaluation", "gpt", weights, {"model": first}, statistics=statistics, note=str(loss))
    (tmp_path / "mlruns").mkdir()
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as database:
        database.executescript(REGISTRY)
        for number, model in enumerate((first, second), 1):
            database.execute("INSERT INTO model_versions VALUES ('gpt', ?, 1000, 'None')", [number])
            tags = {"fingerprint": model.ref.fingerprint, "decision": "promoted", "why": "better"}
            for key, value in tags.items():
                row = [number, f"tokenmill.{key}", value]
                database.execute("INSERT INTO model_version_tags VALUES ('gpt', ?, ?, ?)", row)
        database.execute("INSERT INTO registered_model_aliases VALUES ('gpt', 2, 'champion')")
    query = """SELECT model, version, aliases, decision, why, parameters, metrics, ref FROM models
        ORDER BY model, version"""
    assert connect(store).execute(query).fetchall() == [
        ("gpt", 1, [], "promoted", "better", 10, json.dumps({"test/loss": 2.0}), str(first.ref)),
        ("gpt", 2, ["champion"], "promoted", "better", 20, None, str(second.ref)),
        ("loose", None, None, None, None, None, None, str(loose.ref)),
    ]
