"""A small chain of everything, with texts that would do harm in a page; each dataset is built on first use."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from chains import BAD, CHAIN, builder

from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener


class Strict(Listener):
    """Fails on a warning."""

    def warn(self, sentence: str) -> None:
        raise AssertionError(sentence)


@pytest.fixture(scope="session")
def strict() -> Strict:
    return Strict()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dataset]:
    """made(STEP) is the dataset that a step of the chain made; its curves are in MLflow's database."""
    home = tmp_path_factory.mktemp("report")
    record_run(home, "r-pretrain")
    return builder(home, "tiny")


@pytest.fixture(scope="session")
def chain(made: Callable[[str], Dataset]) -> dict[str, Dataset]:
    """Every dataset of the chain, by step."""
    return {step_type.name: made(step_type.name) for step_type, _, _ in CHAIN}


def record_run(home: Path, run_id: str) -> None:
    """Write a run into MLflow's database, with curves and a text."""
    artifacts = home / "mlruns" / "artifacts"
    (artifacts / "samples").mkdir(parents=True)
    (artifacts / "samples" / "step-000002.txt").write_text(f"And it wrote {BAD}")
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as database:
        database.execute("CREATE TABLE metrics (run_uuid, key, step, value, is_nan)")
        database.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
        database.execute("INSERT INTO runs VALUES (?, ?)", (run_id, artifacts.as_uri()))
        for step in range(20):
            for key in ("train/loss", "train/learning_rate", "train/gradient_norm", "train/tokens_per_second"):
                database.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, 0)", (run_id, key, step, 5 - step / 10))
        database.execute("INSERT INTO metrics VALUES (?, 'val/loss', 10, 4.5, 0)", (run_id,))
