"""Steps report what they do, and their bars move forward only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store import step
from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener, StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig


class Recorder(Listener):
    """Keeps every report of progress."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, float, str, str]] = []

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        self.reports.append((done, total, unit, note))


def perform(store: Store, type_: StepType, config: Any, **inputs: Dataset) -> tuple[Dataset, Recorder]:
    heard, used = Recorder(), type_.using("test", config, inputs)
    dataset = store.build(
        used, lambda out, scratch: type_.run(inputs, config, out, StepContext(scratch, heard, sources=used.sources))
    )
    return dataset, heard


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, Recorder]:
    monkeypatch.setattr(step, "REPORT_EVERY", 0)
    rows = "".join(
        json.dumps({"text": f"{i} the mill grinds {i * 7}, and the miller sleeps"}) + "\n" for i in range(99)
    )
    (tmp_path / "a.jsonl").write_text(rows)
    sources = {"sources": [{"uri": str(tmp_path / "a.jsonl")}], "partition_bytes": 2000, "near_duplicates": 0.9}
    return perform(Store(tmp_path / "data"), INGEST, IngestConfig.model_validate(sources))


def test_bar_of_ingest_never_falls_back(corpus: tuple[Dataset, Recorder]) -> None:
    reports = corpus[1].reports
    read = [note for *_, note in reports].index("reading")
    shares = [done / total for done, total, *_ in reports[read + 1 :]]
    assert shares == sorted(shares) and shares[-1] == 1
    assert any(note.startswith("looking for duplicates, ") for *_, note in reports)
    before = [done for done, _, unit, _ in reports[:read] if unit == "bytes"]
    assert before == sorted(before) and before[-1] == (corpus[0].manifest.sources[0].bytes)


def test_learning_a_vocabulary_reports_bytes(corpus: tuple[Dataset, Recorder], tmp_path: Path) -> None:
    config = TokenizeConfig(encoding="bpe", vocabulary=300)
    _, heard = perform(Store(tmp_path / "data"), TOKENIZE, config, corpus=corpus[0])
    learning = [(done, total) for done, total, unit, _ in heard.reports if unit == "bytes"]
    assert learning == sorted(learning) and learning[-1][0] == learning[-1][1] > 1000
    assert ("bytes", "learning bpe") in [(unit, note) for *_, unit, note in heard.reports]
