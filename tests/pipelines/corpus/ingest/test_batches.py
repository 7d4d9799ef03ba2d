from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import documents, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.corpus.ingest import batches
from pipelines.corpus.ingest.batches import read_batches
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.ingest.partitions import plan
from pipelines.corpus.readers import json_lines
from pipelines.corpus.sources import list_sources
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]


def test_cleaners_run_in_declared_order_and_count(build: Build, tmp_path: Path) -> None:
    text = "schÃ¶n  gesagt\nThis site uses cookies.\nwrite to a@example.org"
    path = write_lines(tmp_path / "a.jsonl", [text, "untouched"])
    names = ["redact", "unicode", "whitespace", "boilerplate"]
    corpus = build(INGEST, {"sources": [{"uri": str(path)}], "clean": names})
    assert [row["text"] for row in documents(corpus)] == ["schön gesagt\nwrite to [EMAIL]", "untouched"]
    assert {name: corpus.manifest.statistics[f"cleaned_{name}"] for name in names} == dict.fromkeys(names, 1)
    plain = build(INGEST, {"sources": [{"uri": str(path)}]})
    assert documents(plain)[0]["text"] == text
    assert not any(name.startswith("cleaned_") for name in plain.manifest.statistics)


@given(
    st.lists(
        st.one_of(
            st.text(max_size=30), st.sampled_from(["", " a\r\n", "e\u0301", "\ud800", None, 7]), st.just("x" * 40)
        ),
        max_size=40,
    ),
    st.integers(1, 400),
    st.integers(64, 2000),
)
@settings(max_examples=60, deadline=None)
def test_fast_path_equals_slow_path(texts: list[Any], limit: int, buffer: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)))
        source = {"uri": str(path), "metadata": ["n"]}
        config = IngestConfig.model_validate({"sources": [source], "partition_bytes": 1 << 20})
        (partition,) = plan(config, list_sources(config.sources), Path(folder))[0]
        patch.setattr(batches, "BATCH_BYTES", limit)
        patch.setattr(json_lines, "BUFFER", buffer)
        found = [(rows.to_pylist(), batch.rejected, batch.counts) for rows, batch in read_batches(partition)]
        assert sum(len(rows) + len(bad) for rows, bad, _ in found) == len(texts)
        patch.setattr(batches, "normalise_fields", lambda records, column: [])
        assert found == [(rows.to_pylist(), batch.rejected, batch.counts) for rows, batch in read_batches(partition)]


def test_bytes_outside_the_encoding_are_rejected_or_repaired(build: Build, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"good " * 500 + b"\xff\xfe" + b" good" * 500)
    write_lines(tmp_path / "ok.jsonl", ["fine"])
    sources = [{"uri": str(tmp_path / name)} for name in ("ok.jsonl", "bad.txt")]
    with pytest.raises(InputError, match="bytes outside the encoding"):
        build(INGEST, {"sources": sources})
    (tmp_path / "mixed.jsonl").write_bytes(b'{"text": "also fine"}\n{"text": "b\xff\xfe\xffd"}\n')
    rejecting = build(INGEST, {"sources": [{"uri": str(tmp_path / "mixed.jsonl")}]}).manifest.statistics
    assert (rejecting["documents"], rejecting["rejected"], rejecting["undecodable_bytes"]) == (1, 1, 3)
    repaired = build(INGEST, {"sources": sources, "undecodable": "repair"})
    assert sum(row["text"].count("\ufffd") for row in documents(repaired)) == 2
    assert repaired.manifest.statistics["undecodable_bytes"] == 2


def test_spelled_end_of_text_stays_text(build: Build, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["one <|endoftext|> two"])
    assert documents(build(INGEST, {"sources": [{"uri": str(path)}]}))[0]["text"] == "one <|endoftext|> two"


def test_much_metadata_ends_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BESIDE_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {i}", "by": "x" * 300}) + "\n" for i in range(20)))
    for clean in ([], ["whitespace"]):
        config = IngestConfig(sources=[{"uri": str(path), "metadata": ["by"]}], clean=clean)
        (partition,), _ = plan(config, list_sources(config.sources), tmp_path)
        monkeypatch.setattr(json_lines, "BUFFER", 600)
        sizes = [len(rows) for rows, _ in read_batches(partition)]
        assert sum(sizes) == 20 and max(sizes) <= 6


def test_endless_list_of_bad_words_is_an_error(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WORDS_BYTES", 1000)
    path = write_lines(tmp_path / "a.jsonl", ["text"])
    (tmp_path / "words.txt").write_text("word\n" * 1000)
    config = {"sources": [{"uri": str(path)}], "bad_words": str(tmp_path / "words.txt"), "keep": "bad_words = 0"}
    with pytest.raises(InputError, match=r"words\.txt is larger than 1,000 bytes"):
        build(INGEST, config)
