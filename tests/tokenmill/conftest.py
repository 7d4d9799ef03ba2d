"""The home of the Python page, whose models are trained for two steps, without Prefect and MLflow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from page import PYTHON, blocks

from pipelines.chain import chain
from pipelines.config import parse_config
from pipelines.overrides import apply_override
from pipelines.store.dataset import Dataset
from pipelines.store.step import Step, StepContext
from pipelines.store.store import Store

QUICK = ("pretrain", "finetune.food.training", "finetune.answers.training")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the home. Tests only read it."""
    home = tmp_path_factory.mktemp("walks")
    names: dict[str, dict[str, object]] = {}
    before = Path.cwd()
    os.chdir(home)
    try:
        exec(next(code for code, _, _ in blocks(PYTHON) if "config = {" in code), names)  # noqa: S102 - our own page
        for training in QUICK:
            apply_override(names["config"], f"{training}.steps=2")
        chain(_perform(Store(home / "data")), parse_config(names["config"], "the page"), "finetune")
    finally:
        os.chdir(before)
    return home


def _perform(store: Store):
    def perform(step: Step) -> Dataset:
        return store.build(
            step, lambda out, scratch: step.type.run(step.inputs, step.config, out, StepContext(scratch))
        )

    return perform


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same home, as the current folder."""
    monkeypatch.chdir(home)
    monkeypatch.delenv("TOKENMILL_HOME", raising=False)
    yield home
