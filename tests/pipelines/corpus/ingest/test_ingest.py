from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from corpora import documents, rejected, several, write_lines

from pipelines.corpus.documents import document_id
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext
from pipelines.store.store import Store

Build = Callable[..., Dataset]


def test_documents_are_normalised_hashed_and_kept_once(build: Build, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["  e\u0301\r\nline\r", "\u00e9\nline", " \n ", "other"])
    corpus = build(INGEST, {"sources": [{"uri": str(path)}]})
    kept = documents(corpus)
    assert [row["text"] for row in kept] == ["é\nline", "other"]
    assert all(row["doc_id"] == document_id(row["text"]) for row in kept)
    assert [row["n_bytes"] for row in kept] == [7, 5]
    assert [(row["reason"], row["location"], row["kept"]) for row in rejected(corpus)] == [
        ("empty", "a.jsonl line 3", None),
        ("exact duplicate", "a.jsonl line 2", kept[0]["doc_id"]),
    ]
    statistics = corpus.manifest.statistics
    assert (statistics["documents"], statistics["bytes"], statistics["rejected"]) == (2, 12, 2)
    assert sum(statistics[f"documents_{split}"] for split in ("train", "validation", "test")) == 2


def corpus_bytes(corpus: Dataset) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in corpus.manifest.files.items()}


def backwards(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """What many workers may do: the last items first."""
    return [function(item) for item in list(items)[::-1]][::-1]


def test_bytes_do_not_depend_on_the_order_of_work(tmp_path: Path, build: Build, store: Store) -> None:
    for i in range(20):
        write_lines(tmp_path / f"texts/{i}.jsonl", several(20)[i:])
    config = {"sources": [{"uri": str(tmp_path / "texts")}], "partition_bytes": 3000}
    corpus = build(INGEST, config)
    assert corpus.manifest.statistics["parts"] > 5
    expected = corpus_bytes(corpus)
    store.remove(corpus)
    assert corpus_bytes(build(INGEST, config, map_=backwards)) == expected


def test_file_changed_after_the_fingerprint_is_an_error(store: Store, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "texts/a.jsonl", ["before"])
    other = write_lines(tmp_path / "others/texts/a.jsonl", ["another of that name"])
    uris = [{"uri": str(each.parent)} for each in (path, other)]
    step = INGEST.using("test", IngestConfig.model_validate({"sources": uris}))
    assert step.fingerprint  # the files are listed here
    write_lines(tmp_path / "texts/b.jsonl", ["a file that came later"])

    def run(out: Path, scratch: Path) -> dict[str, Any]:
        return INGEST.run({}, step.config, out, StepContext(scratch, sources=step.sources))

    write_lines(path, ["and after"])
    with pytest.raises(InputError, match=r"texts/a\.jsonl changed while it was read"):
        store.build(step, run)
    path.unlink()
    with pytest.raises(InputError, match=r"texts/a\.jsonl changed while it was read"):
        store.build(step, run)
    assert not store.list()
    write_lines(path, ["before"])
    assert [row["text"] for row in documents(store.build(step, run))] == ["before", "another of that name"]


def test_place_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    steps = []
    for place in ("here", "there"):
        path = write_lines(tmp_path / place / "a.jsonl", ["same"])
        steps.append(INGEST.using("c", IngestConfig.model_validate({"sources": [{"uri": str(path)}]})))
    assert steps[0].fingerprint == steps[1].fingerprint
