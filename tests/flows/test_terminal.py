"""The terminal: no command, error or log sends it a control character of somebody else's text."""

import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from terminal import RICH, on_terminal
from terminal_child import CASES, HOSTILE

from flows import console
from flows.cli import app
from flows.commands import datasets
from flows.terminal import VisibleRecord, VisibleStream, prepare_streams, results
from pipelines.visible import visible

CHILD = Path(__file__).parents[1] / "support" / "terminal_child.py"


@pytest.fixture(scope="module")
def arrived(tmp_path_factory):
    """Return pairs of a command and what it sent to a terminal."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    parts = re.split(r"^== (.*)\n", on_terminal(sys.executable, CHILD, home), flags=re.MULTILINE)
    assert parts[0].strip() == "" and parts[-2] == "traceback", parts[0] + parts[-1]
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_a_hostile_case():
    commands = {info.name or info.callback.__name__ for info in app.registered_commands}
    commands |= {f"datasets {info.name or info.callback.__name__}" for info in datasets.app.registered_commands}
    assert set(CASES) == commands


def test_terminal_gets_no_control_characters(arrived):
    for name, text in arrived:
        assert "\x1b[38;5;77;5m" not in text, name
        plain = RICH.sub("", text)
        plain = plain.replace("\r", "") if name == "progress" else plain
        assert visible(plain) == plain, f"{name}: {plain!r}"


def test_hostile_text_is_shown_and_forges_no_line(arrived):
    for name, text in arrived:
        plain = RICH.sub("", text)
        if name not in ("sql", "schedule", "serve", "chat", "datasets gc"):
            assert "]0;TITLE" in plain and "[bold]x" in plain, name
        if name not in ("sql", "shell"):  # CSV keeps its lines
            assert not re.search("^ *FORGED", plain, re.MULTILINE), f"{name}: {plain}"


# The streams


class Terminal(io.StringIO):
    def isatty(self):
        return True


@given(st.text(st.characters(codec=None, exclude_categories=()) | st.sampled_from("\x1b\x07\x9b\r\n[]0;m\u202e")))
def test_any_text_in_any_way_sends_no_control_character(text):
    screen, record = Terminal(), VisibleRecord("x", logging.ERROR, "x.py", 1, "%s", (text,), None)
    with pytest.MonkeyPatch.context() as patched:
        for name in ("stdout", "stderr"):
            patched.setattr(sys, name, VisibleStream(screen))
        print(text)
        print(text, file=results())
        typer.echo(text, err=True)
        logging.StreamHandler(sys.stderr).emit(record)
        console.say(text)
        console.warn(text)
        table = Table(text, title=text)
        table.add_row(Text(text), style="red")
        console.standard_output().print(text, table, Tree(text))
    sent = RICH.sub("", screen.getvalue())
    assert visible(sent) == sent


def test_closed_streams_are_empty_ones(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    prepare_streams()
    print("gone", file=results())
    print("gone", file=sys.stderr)
    assert sys.stdin.read() == "" and not sys.stdin.isatty()


@pytest.mark.parametrize(("stream", "expected"), [(Terminal(), visible(HOSTILE)), (io.StringIO(), HOSTILE)])
def test_results_are_bare_only_off_a_terminal(stream, expected, monkeypatch):
    monkeypatch.setattr(sys, "stdout", VisibleStream(stream))
    print(HOSTILE, end="", file=results())
    assert stream.getvalue() == expected


def test_visible_stream_offers_no_way_around():
    stream = VisibleStream(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert not hasattr(stream, "buffer") and stream.encoding == "utf-8"
    stream.writelines([HOSTILE, "\n", HOSTILE])
    stream.flush()
    assert stream.stream.buffer.getvalue().decode() == f"{visible(HOSTILE)}\n{visible(HOSTILE)}"


def test_log_shows_control_characters_of_message_and_traceback():
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = VisibleRecord("x", logging.ERROR, "x.py", 1, "%s", (HOSTILE,), sys.exc_info())
    line = logging.Formatter("%(message)s").format(record)
    assert line.startswith(visible(HOSTILE)) and line.count(visible(HOSTILE)) == 2 and visible(line) == line


def run(redirect, *arguments):
    command = f'exec "$@" {redirect}'
    return subprocess.run(
        ["/bin/sh", "-c", command, "sh", sys.executable, "-m", "flows.cli", *arguments], capture_output=True, text=True
    )


def test_closed_standard_input_is_an_empty_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    done = run("<&-", "sql")
    assert done.returncode == 2 and done.stderr.startswith("tokenmill: The query is empty; try: select")


@pytest.mark.parametrize(
    ("redirect", "code", "error"),
    [("<&- >&- 2>&-", 0, ""), (">/dev/full", 2, "tokenmill: The output cannot be written: No space left on device.\n")],
)
def test_output_that_cannot_be_written_is_one_sentence(redirect, code, error):
    done = run(redirect, "--version")
    assert (done.returncode, done.stderr) == (code, error)


def test_pipe_whose_reader_has_left_ends_in_silence():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "flows.cli", "--version"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 1 and done.stderr == b""
