"""The closing table of a run."""

import io
from pathlib import Path
from unittest.mock import MagicMock

from rich.console import Console

from flows.commands.closing import closing
from flows.outcome import Outcome
from flows.tracking.notes import run_note


def test_earlier_decision_has_no_time_and_is_not_reused():
    summary = "spam/1 promoted. By hand: see [/notes]"
    before, now = (Outcome("promote", MagicMock(), 1.5, reused, summary) for reused in (True, False))
    assert [row.rpartition(" | ")[2] for row in run_note([before, now], {}).splitlines()[-2:]] == [" |", "1.5 s |"]
    out = io.StringIO()
    Console(file=out, width=120).print(closing("run", [before, now], Path(), 3))
    assert out.getvalue().count(summary) == 2 and "reused" not in out.getvalue() and "1.5 s" in out.getvalue()
