from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import documents, write_lines
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.ingest.divide import Division, divide, division_of
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.readers.records import Record
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]


def book(n_paragraphs: int, seed: int = 1) -> str:
    words = random.Random(seed)
    lengths = (words.randrange(20, 90) for _ in range(n_paragraphs))
    return "\n\n".join(" ".join(words.choice(("mill", "river", "wheel", "flour")) for _ in range(n)) for n in lengths)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("book.txt", book(60)),
        ("book.md", "# The mill\n\n" + book(60)),
        ("book.csv", f'title,text\nThe mill,"{book(60)}"\n'),
        ("book.jsonl", json.dumps({"text": book(60)}) + "\n"),
        ("note.txt", book(2)),
        ("equal.txt", "The mill grinds.\n" * 1000),
    ],
)
def test_one_text_becomes_documents_of_every_split(build: Build, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / name)}]})
    statistics = corpus.manifest.statistics
    assert statistics["texts"] == 1 and statistics["documents"] == len(documents(corpus)) >= 3
    assert min(statistics[f"documents_{split}"] for split in ("train", "validation", "test")) >= 1
    assert statistics["documents_train"] > statistics["documents"] / 2
    if name == "equal.txt":
        return
    joined = " ".join(" ".join(row["text"] for row in documents(corpus)).split())
    assert joined.endswith(" ".join(book(2 if name == "note.txt" else 60).split()))


def test_division_is_told_and_headed(build: Build, tmp_path: Path, warnings: Any) -> None:
    (tmp_path / "book.txt").write_text(book(60))
    statistics = build(INGEST, {"sources": [{"uri": str(tmp_path / "book.txt")}]}).manifest.statistics
    assert f"book.txt: long texts were divided, so that 1 became {statistics['documents']} " in warnings.sentences[0]
    assert INGEST.headline and f"{statistics['documents']} documents (divided from 1)" in INGEST.headline(statistics)


def test_keys_divide_instead(build: Build, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(text := book(60))
    for keys in ({"max_document": 1_000_000}, {"split_at": "\f"}):
        assert [
            row["text"] for row in documents(build(INGEST, {"sources": [{"uri": str(tmp_path / "book.txt"), **keys}]}))
        ] == [text]
    path = write_lines(tmp_path / "book.jsonl", [text])
    pieces = documents(build(INGEST, {"sources": [{"uri": str(path), "max_document": 500}]}))
    assert len(pieces) > 20 and all(len(row["text"]) <= 500 for row in pieces)
    assert [row["location"] for row in pieces[:2]] == ["book.jsonl line 1 part 1", "book.jsonl line 1 part 2"]


def test_three_short_texts_stay_whole(build: Build, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", texts := [book(8, seed) for seed in range(3)])
    assert [row["text"] for row in documents(build(INGEST, {"sources": [{"uri": str(path)}]}))] == texts


def test_many_texts_of_a_size_stay_whole(build: Build, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", texts := [book(60, seed) for seed in range(8)])
    assert [row["text"] for row in documents(build(INGEST, {"sources": [{"uri": str(path)}]}))] == texts


def test_pieces_stay_when_the_corpus_grows_a_little(build: Build, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(book(300))
    before = documents(build(INGEST, {"sources": [{"uri": str(tmp_path / "a.txt")}]}))
    (tmp_path / "a.txt").write_text(book(300) + "\n\nAn end.")
    after = documents(build(INGEST, {"sources": [{"uri": str(tmp_path / "a.txt")}]}))
    assert [row["text"] for row in after[: len(before) - 1]] == [row["text"] for row in before[:-1]]


@given(st.text("ab \n.", max_size=3000), st.integers(1, 400))
def test_pieces_are_the_text_without_blank_ones(text: str, into: int) -> None:
    pieces = list(divide(Record({"text": text}, "file"), SourceConfig(uri="a"), Division(into, into)))
    assert all(
        isinstance(piece, Record) and len(piece.fields["text"]) <= max(into, len(text) * text.isspace())
        for piece in pieces
    )
    assert "".join("".join(piece.fields["text"] for piece in pieces).split()) == "".join(text.split())  # type: ignore[union-attr]


@given(st.integers(0, 1 << 50))
def test_single_text_has_several_pieces_at_every_size(n_bytes: int) -> None:
    division = division_of(1, n_bytes)
    assert division.into <= division.longer_than and (n_bytes <= 256 or n_bytes > division.longer_than)
    assert n_bytes <= 768 or 6 <= n_bytes / division.into <= 100
