"""Figures about corpora and examples."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.report.figures.text import corpus_parts, examples_parts
from pipelines.store.dataset import Dataset


def test_lengths_and_rejections_count_every_document(made: Callable[[str], Dataset]) -> None:
    statistics = made("ingest").manifest.statistics
    parts = {part.title: part for part in corpus_parts(made("ingest"), {})}
    assert sum(n for _, n in parts["Length of documents"].rows) == statistics["documents"]
    assert parts["Rejected, by reason"].rows == [("exact duplicate", statistics["rejected"])]
    assert [row[0] for row in parts["Rejected texts"].rows] == ["exact duplicate"]
    assert "Text by language" not in parts


def test_examples_are_counted_by_label(made: Callable[[str], Dataset]) -> None:
    parts = {part.title: part for part in examples_parts(made("examples"), {})}
    assert dict(parts["Examples by label"].rows).keys() == {"<b>code", "prose"}
