"""What the tests of steps share: a store in a temporary folder, and a way to run a step into it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chains import BAD, builder

from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener, StepContext, StepType, map_in_turn
from pipelines.store.store import Store


class Warnings(Listener):
    """Keeps what a step warned of."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def warn(self, sentence: str) -> None:
        self.sentences.append(sentence)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


@pytest.fixture
def warnings() -> Warnings:
    return Warnings()


@pytest.fixture
def build(store: Store, warnings: Warnings) -> Callable[..., Dataset]:
    """build(STEP, {config}, role=dataset, ...) publishes the step's result and returns it."""

    def build_step(
        step_type: StepType, config: dict[str, Any], map_: Callable[..., list[Any]] = map_in_turn, **inputs: Dataset
    ) -> Dataset:
        step = step_type.using("test", step_type.config(**config), inputs)
        return store.build(
            step, lambda out, scratch: step_type.run(inputs, step.config, out, StepContext(scratch, warnings, map_))
        )

    return build_step


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Callable[..., list[Any]]:
    """on_small_disk(SCRIPT, arguments ...) runs a script beside a disk of 24 MB, whose folder is its first argument.

    Returns the lines of JSON that it prints.
    """
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=24m none {disk}"
    try:
        subprocess.run([*unshare, "sh", "-c", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this process may not mount a small disk of its own (unshare --mount, mount -t tmpfs)")

    def run(script: str, *arguments: object) -> list[Any]:
        command = [sys.executable, "-c", script, str(disk), *map(str, arguments)]
        done = subprocess.run(
            [*unshare, "sh", "-c", f'{mount} && exec "$0" "$@"', *command],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.fixture
def few_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep items out to decide on from validation splits of any size."""
    monkeypatch.setattr("pipelines.corpus.kept_out.FEWEST", 1)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dataset]:
    """made(STEP) is the dataset that a step of the chain made; its curves are in MLflow's database."""
    home = tmp_path_factory.mktemp("report")
    record_run(home, "r-pretrain")
    return builder(home, "tiny")


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
