"""A chain whose training is killed ends with the bytes of an undisturbed one. test_kills_*.py kill every step."""

from collections.abc import Callable
from typing import Any


def test_killed_training_resumes_bit_identical(kill_runs: Callable[[str], list[Any]]) -> None:
    points = kill_runs("pretrain/checkpoint")
    assert len(points) == 3 and {step for step, *_ in points} == {"pretrain"}
