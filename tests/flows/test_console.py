"""Lines and warnings on standard error."""

import pytest
from rich import box
from rich.table import Table

from flows.console import print_unbroken, say, warn


def test_sentences_are_printed_whole_and_unchanged(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    sentence = "A sentence with [brackets], which is longer than the terminal is wide."
    say(sentence)
    warn(sentence)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [sentence, f"! {sentence}"] and not printed.out


@pytest.mark.parametrize("width", [30, 40, 80, 200])
def test_narrow_terminal_breaks_no_path(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    path = "data/corpus/a-name-of-many-letters-c5e3c7cf61f3"
    for settings in ({"box": None}, {"box": box.SIMPLE_HEAD, "title": "A title of some words."}):
        table = Table(pad_edge=False, **settings)
        table.add_column("step", no_wrap=True)
        table.add_column("where")
        table.add_column("took", no_wrap=True)
        table.add_row("a step", f"Some words that may go on another line: {path}", "12.5 s")
        print_unbroken(table)
        out = capsys.readouterr().out
        assert path in out and "a step" in out and "12.5 s" in out
