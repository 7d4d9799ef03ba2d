"""A chain whose evaluations and report are killed at every kind of moment ends with the bytes of an undisturbed one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.slow
def test_killed_evaluations_and_report_resume_bit_identical(kill_runs: Callable[[str], list[Any]]) -> None:
    points = kill_runs("evaluation")
    assert len(points) >= 14
    steps = Counter(moment for _, moment in {(step, moment) for step, moment, _ in points})
    # pyarrow writes most files of an evaluation, which Python's audit events do not show.
    assert steps["write"] and all(steps[moment] >= 2 for moment in ("start", "read", "publish", "record")), steps
