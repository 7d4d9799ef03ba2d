"""What the tests of steps share: a store in a temporary folder, and a way to run a step into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.step import Report, StepType, Work, map_in_turn
from pipelines.store import Dataset, Store


class Warnings(Report):
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
        step = step_type.using("test", step_type.config(**config), {role: one.ref for role, one in inputs.items()})
        return store.build(
            step, lambda out, scratch: step_type.run(inputs, step.config, out, Work(scratch, warnings, map_))
        )

    return build_step
