"""Progress on the terminal shows every text as it is, whatever the data holds."""

import io
from unittest.mock import MagicMock

import pytest
from rich.console import Console

from flows import console
from flows.console import say, warn
from flows.orchestration import progress
from flows.orchestration.progress import StepListener, hashing_bar, step_bar
from flows.orchestration.task_runners import map_tasks
from pipelines.corpus.sources import describe, list_files

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


def test_hashing_of_sources_shows_its_rate(terminal, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "SOON", 0)
    (tmp_path / "big.txt").write_bytes(bytes(3 << 20))
    files, _ = list_files(str(tmp_path))
    with hashing_bar():
        describe(files, "big")
        assert "hash sources" in terminal.getvalue()
    assert "B/s" in terminal.getvalue() and "3.1 MB" in terminal.getvalue()


def test_single_partition_advances_the_bar():
    advanced = []
    assert map_tasks(str, [7], lambda: advanced.append(1)) == ["7"] and advanced == [1]
