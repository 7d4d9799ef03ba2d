from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from corpora import documents, rejected, several, write_lines

from pipelines.corpus.documents import normalise
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]


def test_duplicates_across_sources_keep_the_first(build: Build, tmp_path: Path) -> None:
    texts = several(50)
    first = write_lines(tmp_path / "one/a.jsonl", texts[:30])
    second = write_lines(tmp_path / "two/a.jsonl", texts[20:])
    corpus = build(
        INGEST,
        {"sources": [{"uri": str(first), "name": "one"}, {"uri": str(second), "name": "two"}], "partition_bytes": 1000},
    )
    kept = documents(corpus)
    assert [row["text"] for row in kept] == [normalise(text) for text in texts]
    assert [row["source"] for row in kept] == ["one"] * 30 + ["two"] * 20
    assert {row["source"] for row in rejected(corpus)} == {"two"} and len(rejected(corpus)) == 10


def test_rules_that_differ_in_a_sign_count_separately(build: Build, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["one", "one two three four", "one two"])
    keep = ["n_words >= 2", "n_words <= 2"]
    statistics = build(INGEST, {"sources": [{"uri": str(path)}], "keep": keep}).manifest.statistics
    counts = {name: count for name, count in statistics.items() if name.startswith("rejected_")}
    assert counts == {"rejected_quality_n_words_at_least_2": 1, "rejected_quality_n_words_at_most_2": 1}
