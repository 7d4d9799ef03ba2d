"""Progress on the terminal shows every text as it is, whatever the data holds."""

import io
from unittest.mock import MagicMock

import pytest
from rich.console import Console

from flows import console
from flows.console import say, warn
from flows.orchestration import progress
from flows.orchestration.progress import StepListener, step_bar

SENTENCE = "labels that training never saw count as errors: [/INST], [red]"


@pytest.fixture
def terminal(monkeypatch):
    out = io.StringIO()
    screen = Console(file=out, width=200, force_terminal=True, color_system=None)
    for module in (console, progress):
        monkeypatch.setattr(module, "console", screen)
    return out


def test_words_in_brackets_are_no_markup(terminal):
    warn(SENTENCE)
    say(SENTENCE, "dim")
    with step_bar("examples spam") as (bar, task):
        listener = StepListener(bar, task, MagicMock())
        listener.progress(1, 2, "examples", "[/INST].csv")
        bar.refresh()
    assert terminal.getvalue().count(SENTENCE) == 2 and "[/INST].csv" in terminal.getvalue()
