"""Text in a file or in a pipe, as a user hands it to a command."""

from __future__ import annotations

import codecs
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.commands.text_input import input_lines, input_text
from pipelines.errors import InputError

TEXT = "Grüße aus Köln für 5 €\n\nCafé à Paris, déjà vu, élève\nlast"
LINES = TEXT.split("\n")


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("cp1252"),
        TEXT.replace("\n", "\r\n").encode(),
        f"{TEXT}\n".encode(),
        TEXT.replace("\n", "\r").encode(),
    ],
    ids=["utf-8", "mark", "utf-16", "utf-16-be", "windows-1252", "crlf", "end", "cr"],
)
def test_file_and_pipe_give_the_same_lines(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert list(input_lines(path)) == LINES and input_text(path) == TEXT
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert list(input_lines()) == LINES


def test_damaged_byte_is_replaced_in_its_line_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(("Größe und Käse sind schön. " * 99).encode() + b"\na\xffb\nlast")
    assert list(input_lines(path))[1:] == ["a\ufffdb", "last"]


def test_letter_far_behind_decides_the_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"nothing but letters of ASCII here\n" * 9000 + "Der Käse für Größe ist müde".encode("cp1252"))
    assert list(input_lines(path))[-1] == "Der Käse für Größe ist müde"
    assert f"{path} is read as cp1252" in capsys.readouterr().err


def test_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert list(input_lines(tmp_path / "a.txt")) == []


def test_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("hi")
    assert list(input_lines(Path("~/a.txt"))) == ["hi"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none.txt", r"none\.txt cannot be read: No such file or directory\."),
        ("", r" is a folder; name a file\."),
        ("a.png", r"a\.png cannot be read: binary, not text\."),
    ],
)
def test_file_that_cannot_be_read_is_named(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    with pytest.raises(InputError, match=sentence):
        list(input_lines(tmp_path / name))


def test_pipe_is_answered_line_by_line() -> None:
    """A program that waits for an answer before it writes its next line is not kept waiting."""
    script = "from flows.commands.text_input import input_lines\nfor line in input_lines(): print(line, flush=True)"
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    ) as child:
        assert child.stdin and child.stdout
        for line in (b"one\n", "zw\u00f6lf\n".encode()):
            child.stdin.write(line)
            child.stdin.flush()
            assert child.stdout.readline() == line
        child.stdin.close()


def test_home_folder_of_nobody_is_one_sentence() -> None:
    with pytest.raises(InputError, match="nobody knows the home folder"):
        list(input_lines(Path("~nobody-of-this-name/a.txt")))
