"""A chain whose trainings are killed at every kind of moment ends with the bytes of an undisturbed one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.slow
def test_killed_trainings_resume_bit_identical(kill_runs: Callable[[str], list[Any]]) -> None:
    points = kill_runs("training")
    assert len(points) >= 18
    steps = Counter(moment for _, moment in {(step, moment) for step, moment, _ in points})
    assert all(steps[moment] >= 2 for moment in ("start", "read", "write", "publish", "record")), steps
    trainings = {"pretrain", "finetune-classifier", "finetune-assistant"}
    assert {step for step, moment, _ in points if moment == "checkpoint"} == trainings
