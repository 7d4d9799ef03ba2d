"""What people read while steps run is what was said, whatever stands in their data."""

import io
from unittest.mock import MagicMock

import pytest
from rich.console import Console

from flows import console
from flows.console import say, warn
from flows.orchestration.progress import StepReport, step_bar

SAID = "labels that training never saw count as errors: [/INST], [red]"


@pytest.fixture
def terminal(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=out, width=200, force_terminal=True, color_system=None))
    return out


def test_words_in_brackets_are_words(terminal):
    warn(SAID)
    say(SAID, "dim")
    with step_bar("examples spam") as (bar, task):
        report = StepReport(bar, task, MagicMock())
        report.progress(1, 2, "examples", "[/INST].csv")
        bar.refresh()
    assert terminal.getvalue().count(SAID) == 2 and "[/INST].csv" in terminal.getvalue()
