"""What a run says at its end."""

import io
from pathlib import Path
from unittest.mock import MagicMock

from rich.console import Console

from flows.commands.closing import closing
from flows.outcome import Outcome
from flows.tracking.notes import run_note


def test_a_decision_of_before_took_no_time_and_was_not_reused():
    said = "spam/1 promoted. By hand: see [/notes]"
    before, now = (Outcome("promote", MagicMock(), 1.5, reused, said) for reused in (True, False))
    assert [row.rpartition(" | ")[2] for row in run_note([before, now], {}).splitlines()[-2:]] == [" |", "1.5 s |"]
    out = io.StringIO()
    Console(file=out, width=120).print(closing("run", [before, now], Path(), 3))
    assert out.getvalue().count(said) == 2 and "reused" not in out.getvalue() and "1.5 s" in out.getvalue()
