"""What a look at a file guesses, and what its name and keys say."""

from __future__ import annotations

import csv
import gzip
import io
import json
from typing import Any

import pytest
from reading import PACK, WRITTEN, problems, read, texts

from pipelines.corpus.readers.look import Guess, Look, look
from pipelines.corpus.readers.records import ReadOptions
from pipelines.errors import InputError

FRENCH = "Le moulin près de la rivière tourne déjà, même s'il est tôt. L'été, la farine est bientôt prête. "


def look_at(content: bytes, name: str, **options: Any) -> Look:
    file = io.BytesIO(content)
    found = look(file, name, ReadOptions(**options))
    assert file.tell() == 0 and not file.closed
    return found


def guesses(content: bytes, name: str, **options: Any) -> list[tuple[str, str]]:
    return [(guess.key, guess.value) for guess in look_at(content, name, **options).guesses]


def test_expected_values_are_no_guesses() -> None:
    for name, content in WRITTEN.items():
        if name == "tsv":
            content = content.replace(b'"', b"")
        assert not guesses(content, f"a.{name}"), name
        assert not guesses(PACK[".zst"](content), f"a.{name}.zst"), name
    assert look_at("Mühle".encode(), "a.md").options.model_dump(exclude_none=True).items() >= {
        ("format", "markdown"),
        ("compression", "none"),
        ("encoding", "utf-8"),
    }


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst"])
def test_first_bytes_say_the_compression(name: str, packing: str) -> None:
    content = PACK[packing](FRENCH.encode())
    assert texts(read(content, name)) == [FRENCH]
    assert guesses(content, name) == ([] if name.endswith(packing) else [("compression", packing[1:])])


def test_unpacked_text_with_the_name_of_an_archive_is_read() -> None:
    assert texts(read(FRENCH.encode(), "a.txt.gz")) == [FRENCH]
    assert guesses(FRENCH.encode(), "a.txt.gz") == [("compression", "none")]


def test_first_bytes_say_the_format_of_other_files_than_text() -> None:
    assert guesses(WRITTEN["parquet"], "export.txt") == [("format", "parquet")]
    assert len(texts(read(WRITTEN["parquet"], "export.dat"))) == 3
    assert guesses(b"%PDF-1.7\n", "a.txt") == [("format", "pdf")]
    assert guesses(b"<html><body>Text</body></html>", "a.txt") == []
    ((_, reason),) = problems(read(b"PK\3\4" + bytes(range(32)) * 9, "table.csv"))
    assert reason == "binary, not text: a ZIP archive or an Office document"
    ((_, reason),) = problems(read(b"\x00\x01\x02", "a.dat"))
    assert reason == "no reader for .dat"


def test_keys_override_guesses() -> None:
    western = (FRENCH * 9).encode("cp1252")
    assert look_at(western, "a.txt").guesses == (Guess("encoding", "cp1252"),)
    assert look_at(western, "a.txt", encoding="iso-8859-15").options.encoding == "iso8859-15"
    assert not guesses(western, "a.txt", encoding="latin-1")
    packed = gzip.compress(western)
    assert problems(read(packed, "a.txt", compression="none"))
    assert problems(read(western, "a.txt", compression="gz"))
    assert problems(read(WRITTEN["parquet"], "a.txt", format="text"))
    assert texts(read(b'text\n"a"\n', "a.tsv", quotes="letters")) == ['"a"']
    with pytest.raises(InputError, match="There is no format 'tex'"):
        look_at(western, "a.txt", format="tex")
    with pytest.raises(InputError, match="There is no encoding 'klingon'"):
        look_at(western, "a.txt", encoding="klingon")


def test_byte_order_mark_beats_a_key_and_is_no_text() -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        content = FRENCH.encode(encoding)
        for key in (None, "cp1252", "utf-16-le", "utf-8"):
            assert texts(read(content, "a.txt", encoding=key)) == [FRENCH], (encoding, key)
        assert not guesses(content, "a.txt")


@pytest.mark.parametrize("n_before", [0, 70_000, 3_000_000])
def test_letters_far_behind_the_head_are_not_lost(n_before: int) -> None:
    before = ("plain words " * (n_before // 12 + 1))[:n_before]
    text = before + FRENCH * 9
    assert texts(read(text.encode("cp1252"), "a.txt")) == [text]
    assert texts(read(gzip.compress(text.encode("cp1252")), "a.txt.gz")) == [text]
    assert texts(read(text.encode(), "a.txt")) == [text]
    assert guesses(text.encode("cp1252"), "a.txt") == [("encoding", "cp1252")]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le"])
def test_tables_and_lines_are_guessed_too(encoding: str) -> None:
    rows = [f"{FRENCH} {number}" for number in range(30)]
    lines = "".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows)
    assert texts(read(lines.encode(encoding), "a.jsonl")) == rows
    table = io.StringIO()
    csv.writer(table, delimiter=";").writerows([["text", "n"], *([row, 1] for row in rows)])
    assert texts(read(table.getvalue().encode(encoding), "a.csv")) == rows
    assert ("delimiter", ";") in guesses(table.getvalue().encode(encoding), "a.csv")


PAGE = "<html><head>{}</head><body><article><p>" + FRENCH * 5 + "</p></article></body></html>"


@pytest.mark.parametrize(
    ("declaration", "encoding", "is_guess"),
    [
        ('<meta charset="iso-8859-1">', "cp1252", False),
        ('<meta http-equiv="Content-Type" content="text/html; charset=utf-8">', "utf-8", False),
        ('<meta charset="utf-8">', "cp1252", True),  # it is not
        ('<meta charset="nonsense">', "cp1252", True),
        ("", "cp1252", True),
    ],
)
def test_declaration_in_a_page_is_no_guess(declaration: str, encoding: str, is_guess: bool) -> None:
    content = PAGE.format(declaration).encode(encoding)
    assert guesses(content, "a.html") == ([("encoding", encoding)] if is_guess else [])
    (text,) = texts(read(content, "a.html"))
    assert "près de la rivière" in text


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv.gz"])
def test_pointer_of_git_lfs_names_the_cure(name: str) -> None:
    content = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    says = "a pointer of Git LFS and not the file itself; git lfs pull fetches it"
    assert problems(read(content, name)) == [("file", says)]
