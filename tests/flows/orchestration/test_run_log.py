"""Prefect's log has the lines of the terminal. Each is printed once, and so is the reason of a failure."""

import logging

import pytest
from prefect.exceptions import MissingContextError
from prefect.logging.handlers import PrefectConsoleHandler

from flows.console import say, warn
from flows.orchestration import run_log
from flows.orchestration.run_log import lines_in_prefect


class Kept(logging.Handler):
    """Keeps the records, as the handler does that sends them to Prefect's server."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append((record.levelname, record.getMessage()))


@pytest.fixture
def prefect_log(monkeypatch):
    """prefect_log(level) returns what Prefect's server receives, where Prefect prints records of a level and above."""
    root, loggers = logging.getLogger(), [logging.getLogger(f"prefect.{kind}_runs") for kind in ("flow", "task")]
    server, answers = Kept(), [loggers[0]]
    filters = [(each, list(each.filters)) for each in (*loggers, *root.handlers)]
    monkeypatch.setattr(root, "handlers", [])
    for logger in loggers:
        monkeypatch.setattr(logger, "handlers", [server])
        monkeypatch.setattr(logger, "level", logging.INFO)

    def run_logger():
        if not answers:
            raise MissingContextError
        return answers.pop()

    monkeypatch.setattr(run_log, "get_run_logger", run_logger)

    def make(level):
        root.handlers.append(PrefectConsoleHandler(level=level))
        return server.records

    yield make
    for each, before in filters:
        each.filters[:] = before


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.CRITICAL])
def test_line_is_printed_once_and_sent_once(prefect_log, capsys, level):
    sent = prefect_log(level)
    with lines_in_prefect():
        say("  reused  ingest x", fit=True)
        warn("from https://me:secret@example.org with \x1b[2J")
        warn("a signal", in_log=False)
    say("after the run")
    assert [name for name, _ in sent] == ["INFO", "WARNING"]
    assert sent[0][1] == "reused  ingest x"
    assert "secret" not in sent[1][1] and "\\x1b[2J" in sent[1][1]
    printed = capsys.readouterr().err
    for text in ("reused  ingest x", "example.org", "a signal", "after the run"):
        assert printed.count(text) == 1, text
    assert "secret" not in printed and "\x1b[2J" not in printed


def test_failure_is_one_error_on_the_terminal(prefect_log, capsys):
    sent = prefect_log(logging.INFO)
    with lines_in_prefect():
        for kind, level in (("task", logging.ERROR), ("flow", logging.INFO)):
            logging.getLogger(f"prefect.{kind}_runs").log(level, "Finished in state Failed('x.csv is binary.')")
    assert sent == [("ERROR", "Finished in state Failed('x.csv is binary.')")] * 2, "Prefect shows both as errors"
    assert capsys.readouterr().err.count("x.csv is binary.") == 1
