from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from corpora import documents, rejected, several, write_lines

from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.ingest.partitions import Piece
from pipelines.corpus.ingest.texts import read_texts
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store
from pipelines.tokens.tokenize import TOKENIZE

Build = Callable[..., Dataset]


def test_parts_are_limited_by_unpacked_size(tmp_path: Path, build: Build) -> None:
    config = {"sources": [{"uri": str(tmp_path / "small.jsonl")}], "partition_bytes": 20_000}
    path = write_lines(tmp_path / "small.jsonl", [f"text {i}" for i in range(700)])
    assert path.stat().st_size < 20_000
    assert build(INGEST, config).manifest.statistics["parts"] == 1
    packed = tmp_path / "large.jsonl.gz"
    packed.write_bytes(gzip.compress("".join(json.dumps({"text": f"{i} " * 4000}) + "\n" for i in range(9)).encode()))
    assert packed.stat().st_size < 20_000
    large = build(INGEST, {**config, "sources": [{"uri": str(packed)}]})
    assert large.manifest.statistics["parts"] == 3  # of 24,000 bytes each


def test_killed_ingest_resumes(tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(10):
        write_lines(tmp_path / f"texts/{i}.jsonl", [f"text {i}"])
    config = {"sources": [{"uri": str(tmp_path / "texts")}], "partition_bytes": 1}
    read: list[str] = []

    def read_some(piece: Piece, *opened: Any) -> Any:
        read.append(piece.file.name)
        if len(read) == 6:
            raise KeyboardInterrupt
        return read_texts(piece, *opened)

    monkeypatch.setattr("pipelines.corpus.ingest.texts.read_texts", read_some)
    with pytest.raises(KeyboardInterrupt):
        build(INGEST, config)
    assert len(documents(build(INGEST, config))) == 10
    assert len(read) == 11  # the sixth file twice, none of the five before it


def test_unreadable_files_are_rejected_and_the_rest_kept(build: Build, tmp_path: Path) -> None:
    root = tmp_path / "texts"
    write_lines(root / "a.jsonl", ["fine"])
    (root / "b.txt").write_bytes(bytes(range(256)) * 10)
    (root / "c.docx").write_bytes(b"whatever")
    (root / "d.txt").write_bytes(b"")
    (root / "e.txt.gz").write_bytes(gzip.compress(b"broken" * 1000)[:30])
    (root / "f.parquet").write_bytes(b"PAR1 and no more")
    (root / "g.txt").symlink_to(write_lines(tmp_path / "secret.txt", ["secret"]))
    corpus = build(INGEST, {"sources": [{"uri": str(root)}]})
    assert [row["text"] for row in documents(corpus)] == ["fine"]
    reasons = {row["location"].split()[0]: row["reason"] for row in rejected(corpus)}
    assert set(reasons) == {"b.txt", "c.docx", "d.txt", "e.txt.gz", "f.parquet", "g.txt"}
    assert reasons["b.txt"] == "binary, not text" and reasons["g.txt"] == "a link that leaves the folder"


def test_unusable_source_names_its_own_first_problem(build: Build, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["fine"])
    with path.open("a") as file:
        file.write("broken\n")
    (tmp_path / "b.docx").write_bytes(b"PK")
    other = write_lines(tmp_path / "c.jsonl", ["fine"])
    for source, problem in (
        ({"uri": str(tmp_path / "b.docx")}, r"b\.docx: no reader for \.docx"),
        ({"uri": str(other), "text": "body"}, r"c\.jsonl line 1: no column 'body'"),
    ):
        with pytest.raises(InputError, match=f"has no usable document; the first problem: {problem}"):
            build(INGEST, {"sources": [{"uri": str(path)}, source]})


def test_partition_truncated_by_a_power_cut_is_repeated(build: Build, store: Store, tmp_path: Path) -> None:
    def cut_power(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        for item in items:
            function(item)
            files = [path for path in item.folder.iterdir() if path.name != "done.json"]
            assert len(files) == 3
            os.truncate(min(files), min(files).stat().st_size // 2)
        raise ConnectionError

    source = {"uri": str(write_lines(tmp_path / "a.jsonl", several(50)))}
    ingest_config, tokenize_config = {"sources": [source], "near_duplicates": 0.8}, {"encoding": "characters"}
    corpus = build(INGEST, ingest_config)
    tokens = build(TOKENIZE, tokenize_config, corpus=corpus)
    store.remove(tokens)
    store.remove(corpus)
    for before, step, config, inputs in (
        (corpus, INGEST, ingest_config, {}),
        (tokens, TOKENIZE, tokenize_config, {"corpus": corpus}),
    ):
        with pytest.raises(ConnectionError):
            build(step, config, cut_power, **inputs)
        assert build(step, config, **inputs).manifest.files == before.manifest.files
