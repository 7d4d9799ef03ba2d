"""Progress of a step: lines that fit the terminal, whatever the data holds, and a bar in Prefect."""

import io
import logging
import re
import threading
import time
from unittest.mock import MagicMock

import pytest
from rich.console import Console

from flows import console
from flows.console import say, warn
from flows.orchestration import progress, progress_artifact
from flows.orchestration.progress import StepListener, hashing_bar, step_bar
from flows.orchestration.progress_artifact import ProgressArtifact
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
        listener = StepListener(bar, task, MagicMock(), MagicMock())
        listener.progress(1, 2, "examples", "[/INST].csv")
        bar.refresh()
    assert terminal.getvalue().count(SENTENCE) == 2 and "[/INST].csv" in terminal.getvalue()


@pytest.mark.parametrize("name", ["wiki", "quickstart-spam-from-scratch"])
def test_training_has_one_line_of_80_columns(terminal, name):
    progress.console.width = 80
    with step_bar(f"finetune-classifier {name}") as (bar, task):
        listener = StepListener(bar, task, MagicMock(), MagicMock())
        for second, step in ((0, 1), (5, 501)):
            bar.get_time = lambda second=second: second
            listener.progress(step, 1000, "steps", "loss 2.310, val 2.412, 12.3k tokens/s")
        terminal.truncate(0)
        bar.refresh()
    (line, *_) = [each for each in re.split(r"\r|\n|\x1b\[\w+", terminal.getvalue()) if name in each]
    assert line.endswith(" 0:05 left") and line.count(":") == 1
    assert len(line) <= 80 and f"finetune-classifier {name}" in line and "50%" in line and "loss 2" in line


def test_evaluations_are_logged_and_others_not(terminal):
    lines = []
    with (
        console.logging_lines(lambda level, line: lines.append((level, line)) or False),
        step_bar("pretrain wiki") as (bar, task),
    ):
        listener = StepListener(bar, task, MagicMock(), MagicMock())
        listener.metrics(1999, {"train/loss": 2.5})
        listener.metrics(2000, {"val/loss": 2.41234, "val/perplexity": 11.2})
    assert lines == [(logging.INFO, "pretrain wiki: step 2,000, val/loss 2.412, val/perplexity 11.2")]


@pytest.fixture
def artifact(monkeypatch):
    """The progress artifact of a step that has run for a while, and what is sent of it."""
    monkeypatch.setattr(progress_artifact, "EVERY", -1)
    monkeypatch.setattr("prefect.artifacts.create_progress_artifact", lambda *sent, **more: artifact.sent.append(sent))
    artifact = ProgressArtifact("pretrain wiki")
    artifact.sent = []
    return artifact


def test_unreachable_server_delays_no_progress(artifact, monkeypatch):
    hangs = threading.Event()

    def create(percent, **named):
        artifact.sent.append(percent)
        hangs.wait(10)
        raise ConnectionError

    monkeypatch.setattr("prefect.artifacts.create_progress_artifact", create)
    began = time.monotonic()
    for done in range(100):
        artifact.show(done / 100, f"{done} of 100 steps")
    assert time.monotonic() - began < 5 and len(artifact.sent) <= 1, "one attempt at a time"
    hangs.set()
    artifact.finish("done")
    artifact._sender.join(10)
    assert artifact.sent == [0, 100]


def test_short_step_has_no_bar_in_prefect(artifact, monkeypatch):
    monkeypatch.setattr(progress_artifact, "EVERY", 5)
    artifact.show(0.5, "half of it")
    artifact.finish("done")
    assert artifact.sent == [] and artifact._sender is None


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
