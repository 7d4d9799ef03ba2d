from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from corpora import documents, several, write_lines
from pydantic import ValidationError

from pipelines.catalog.catalog import connect
from pipelines.catalog.export import export_catalog
from pipelines.corpus.documents import Corpus
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.mix import MIX, MixConfig
from pipelines.corpus.parquet import read_rows
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store
from pipelines.tokens.tokenize import TOKENIZE

pytestmark = pytest.mark.integration

Build = Callable[..., Dataset]


@pytest.fixture
def corpora(build: Build, tmp_path: Path) -> dict[str, Dataset]:
    made = {}
    for name, n in (("small", 200), ("large", 600)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": f"{name} text number {i:04d}"}) + "\n" for i in range(n)))
        made[name] = build(INGEST, {"sources": [{"uri": str(path)}], "partition_bytes": 4000})
    return made


def counted(corpus: Dataset, split: str = "train") -> Counter[tuple[str, str]]:
    rows = (row for part in Corpus(corpus).parts for row in read_rows(part) if row["split"] == split)
    return Counter((row["source"], row["text"]) for row in rows)


def test_whole_epochs_repeat_only_training_documents(build: Build, corpora: dict[str, Dataset]) -> None:
    mixed = build(MIX, {"epochs": {"small": 3, "large": 1}}, **corpora)
    assert {(source, n) for (source, _), n in counted(mixed).items()} == {("small.jsonl", 3), ("large.jsonl", 1)}
    assert len(counted(mixed)) == len(counted(corpora["small"])) + len(counted(corpora["large"]))
    for split in ("validation", "test"):
        assert counted(mixed, split) == counted(corpora["small"], split) + counted(corpora["large"], split)


def test_part_of_an_epoch_is_drawn_without_replacement(build: Build, corpora: dict[str, Dataset]) -> None:
    mixed = build(MIX, {"epochs": {"small": 1.5, "large": 0.25}}, **corpora)
    drawn = counted(mixed)
    small = [n for (source, _), n in drawn.items() if source == "small.jsonl"]
    assert len(small) == len(counted(corpora["small"])) and set(small) == {1, 2}
    assert abs(small.count(2) / len(small) - 0.5) < 0.1
    large = [n for (source, _), n in drawn.items() if source == "large.jsonl"]
    assert set(large) == {1} and abs(len(large) / len(counted(corpora["large"])) - 0.25) < 0.06
    statistics = mixed.manifest.statistics
    assert statistics["documents_train"] == sum(drawn.values()) == len(large) + sum(small)
    assert statistics["documents_train_from_large"] == len(large)
    n_bytes = {name: sum(len(text) * n for (_, text), n in drawn.items() if text.startswith(name)) for name in corpora}
    for name, corpus in corpora.items():
        assert statistics[f"bytes_train_from_{name}"] == n_bytes[name]
        assert statistics[f"share_of_{name}"] == pytest.approx(n_bytes[name] / sum(n_bytes.values()), abs=1e-5)
        there = corpus.manifest.statistics["bytes_train"]
        assert statistics[f"epochs_of_{name}"] == pytest.approx(n_bytes[name] / there, abs=1e-5)


@pytest.mark.parametrize("with_rules", ["small", "large"])
def test_corpora_with_and_without_statistics_mix(
    build: Build, corpora: dict[str, Dataset], tmp_path: Path, with_rules: str
) -> None:
    source = corpora[with_rules].manifest.config["sources"][0]
    judged = build(INGEST, {"sources": [source], "keep": "n_words = 4", "partition_bytes": 4000})
    mixed = build(MIX, {"epochs": {"large": 1, "small": 1.5}}, **corpora | {with_rules: judged})
    drawn = Counter(source for source, _ in counted(mixed).elements())
    store = Store(mixed.path.parents[1])
    export_catalog(store, tmp_path / "catalog.duckdb", datasets=[str(mixed)])
    query = "SELECT source, count(statistics.n_words), count(*) FROM documents WHERE split = 'train' GROUP BY 1"
    for database in connect(store, datasets=[str(mixed)]), duckdb.connect(tmp_path / "catalog.duckdb"):
        with database:
            found = {source: tuple(counts) for source, *counts in database.sql(query).fetchall()}
        assert found == {source: (n if source == f"{with_rules}.jsonl" else 0, n) for source, n in drawn.items()}


def test_larger_share_contains_the_smaller_share(build: Build, corpora: dict[str, Dataset]) -> None:
    less = build(MIX, {"epochs": {"small": 0, "large": 0.3}}, **corpora)
    more = build(MIX, {"epochs": {"small": 1, "large": 0.6}}, **corpora)
    assert counted(less).keys() < counted(more).keys()


def test_weights_are_byte_shares_within_most_epochs(build: Build, corpora: dict[str, Dataset]) -> None:
    statistics = build(MIX, {"weights": {"small": 1, "large": 1}}, **corpora).manifest.statistics
    assert statistics["epochs_of_small"] == 1 and statistics["epochs_of_large"] == pytest.approx(1 / 3, abs=0.05)
    twice = build(MIX, {"weights": {"small": 2, "large": 2}, "most_epochs": 2}, **corpora).manifest.statistics
    assert twice["epochs_of_small"] == 2 and twice["epochs_of_large"] == pytest.approx(2 / 3, abs=0.1)


def test_mix_is_a_corpus_like_any_other(build: Build, corpora: dict[str, Dataset]) -> None:
    mixed = build(MIX, {"epochs": {"small": 1.5, "large": 0.25}}, **corpora)
    tokens = build(TOKENIZE, {"encoding": "characters"}, corpus=mixed)
    assert tokens.manifest.statistics["documents"] == mixed.manifest.statistics["documents"]
    assert tokens.manifest.statistics["bytes_train"] == mixed.manifest.statistics["bytes_train"]


@pytest.mark.parametrize(
    "config", [{}, {"epochs": {"a": 1}, "weights": {"a": 1}}, {"epochs": {"a": -1}}, {"weights": {"a": 0}}]
)
def test_mix_of_nothing_is_an_error(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MixConfig.model_validate(config)


def test_mix_must_name_each_corpus(build: Build, corpora: dict[str, Dataset]) -> None:
    with pytest.raises(InputError, match="look at large, larger"):
        build(MIX, {"epochs": {"small": 1, "larger": 1}}, **corpora)


def test_text_that_a_small_corpus_holds_out_is_held_out_of_the_mix(build: Build, tmp_path: Path) -> None:
    texts = several(300)
    small = build(INGEST, {"sources": [{"uri": str(write_lines(tmp_path / "a.jsonl", texts[:4]))}]})
    large = build(INGEST, {"sources": [{"uri": str(write_lines(tmp_path / "b.jsonl", texts))}]})
    mix = build(MIX, {"epochs": {"small": 1, "large": 1}}, small=small, large=large)
    splits: dict[str, set[str]] = {}
    for row in documents(mix):
        splits.setdefault(row["doc_id"], set()).add(row["split"])
    assert len(splits) == 300 and all(len(each) == 1 for each in splits.values())
    assert "test_share" in small.manifest.statistics and "test_share" not in large.manifest.statistics
