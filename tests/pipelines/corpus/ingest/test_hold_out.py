from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import documents, write_lines
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus.documents import SplitConfig, split_of
from pipelines.corpus.ingest.hold_out import nearest_shares
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]


def splits(corpus: Dataset) -> Counter[str]:
    return Counter(row["split"] for row in documents(corpus))


@pytest.mark.parametrize("n", range(1, 8))
def test_tiny_corpus_has_every_split(build: Build, tmp_path: Path, warnings: Any, n: int) -> None:
    path = write_lines(tmp_path / "a.jsonl", [f"the text of number {i}" for i in range(n)])
    corpus = build(INGEST, {"sources": [{"uri": str(path)}]})
    found, statistics = splits(corpus), corpus.manifest.statistics
    assert found["train"] >= 1 and (found["test"] >= 1) == (n >= 2) and (found["validation"] >= 1) == (n >= 3)
    assert {f"documents_{name}": found[name] for name in found}.items() <= statistics.items()
    if n > 1:
        shares = SplitConfig(validation=statistics["validation_share"], test=statistics["test_share"])
        assert all(row["split"] == split_of(row["doc_id"], shares) for row in documents(corpus))
        assert "[ingest.split]" in warnings.sentences[0]


def test_shares_of_zero_stay(build: Build, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [f"the text of number {i}" for i in range(5)])
    split = {"validation": 0, "test": 0}
    assert splits(build(INGEST, {"sources": [{"uri": str(path)}], "split": split})) == {"train": 5}
    corpus = build(INGEST, {"sources": [{"uri": str(path)}], "split": {"validation": 0.05, "test": 0}})
    assert splits(corpus) == {"train": 4, "validation": 1}


def test_grown_corpus_takes_no_raised_split_from_before(build: Build, tmp_path: Path) -> None:
    config = {"sources": [{"uri": str(tmp_path / "texts")}]}
    write_lines(tmp_path / "texts/a.jsonl", [f"the text of number {i}" for i in range(4)])
    assert splits(build(INGEST, config))["test"] == 1
    write_lines(tmp_path / "texts/b.jsonl", [f"another text of number {i}" for i in range(200)])
    corpus = build(INGEST, config)
    assert "test_share" not in corpus.manifest.statistics
    assert all(row["split"] == split_of(row["doc_id"], SplitConfig()) for row in documents(corpus))


@given(st.sets(st.integers(0, 1 << 30), min_size=2, max_size=30), st.floats(0, 0.6), st.floats(0, 0.39))
def test_nearest_shares_leave_no_wanted_split_empty(places: set[int], validation: float, test: float) -> None:
    hashes = [f"{place << 20:013x}" for place in places]
    shares = nearest_shares([(place << 20) / 16**13 for place in places], SplitConfig(validation=validation, test=test))
    found = Counter(split_of(each, shares) for each in hashes)
    assert found["train"]
    assert bool(found["test"]) == (test > 0)
    assert bool(found["validation"]) == (validation > 0 and (len(places) > 2 or not test))
