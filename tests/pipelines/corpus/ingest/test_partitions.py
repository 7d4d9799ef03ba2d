from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import documents, rejected, several, write_lines

from pipelines.corpus.ingest import partitions
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.ingest.partitions import Partition, plan
from pipelines.corpus.sources import list_sources
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]


def test_large_file_is_divided_and_lines_keep_numbers(build: Build, tmp_path: Path) -> None:
    texts = several(100)
    path = write_lines(tmp_path / "a.jsonl", texts)
    with path.open("a") as file:
        file.write("broken\n")
    whole = documents(build(INGEST, {"sources": [{"uri": str(path)}]}))
    divided = build(INGEST, {"sources": [{"uri": str(path)}], "partition_bytes": 2000})
    assert documents(divided) == whole and divided.manifest.statistics["parts"] > 5
    assert [row["location"] for row in rejected(divided)] == ["a.jsonl line 101"]


def test_pieces_of_a_file_have_digests_of_their_content(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x" * (7 * i % 40)}) + "\n" for i in range(200)]
    content = "".join([*lines, '{"text": "the last line has no end"}'])
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    for size in (1, 50, 999, len(content) // 2):
        config = IngestConfig.model_validate({"sources": [{"uri": str(path)}], "partition_bytes": size})
        pieces = [
            piece for partition in plan(config, list_sources(config.sources), tmp_path)[0] for piece in partition.pieces
        ]
        held = [content[piece.start : piece.end] for piece in pieces]
        assert "".join(held) == content and len(held) > 1
        assert all(text.endswith("\n") and size <= len(text) < size + 70 for text in held[:-1])
        assert [piece.sha256 for piece in pieces] == [hashlib.sha256(text.encode()).hexdigest() for text in held]
        assert [piece.lines_before for piece in pieces] == [content[: piece.start].count("\n") for piece in pieces]


def test_file_truncated_while_planned_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "a.jsonl", several(50))
    real = partitions._line_end

    def line_end(stream: Any, at: int) -> int:
        os.truncate(path, 1500)
        return real(stream, at)

    monkeypatch.setattr(partitions, "_line_end", line_end)
    config = IngestConfig.model_validate({"sources": [{"uri": str(path)}], "partition_bytes": 1000})
    with pytest.raises(InputError, match="changed while it was read"):
        plan(config, list_sources(config.sources), tmp_path)


def test_new_file_moves_only_neighbouring_partitions(tmp_path: Path) -> None:
    for i in range(200):
        write_lines(tmp_path / f"texts/{i:03d}.jsonl", several(3))
    config = IngestConfig.model_validate({"sources": [{"uri": str(tmp_path / "texts")}], "partition_bytes": 10_000})

    def names(partitions: list[Partition]) -> set[tuple[str, ...]]:
        return {tuple(piece.file.name for piece in partition.pieces) for partition in partitions}

    before = names(plan(config, list_sources(config.sources), tmp_path)[0])
    write_lines(tmp_path / "texts/100a.jsonl", several(3))
    after = names(plan(config, list_sources(config.sources), tmp_path)[0])
    assert len(before) > 5 and len(after - before) <= 2
