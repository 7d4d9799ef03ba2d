"""Steps report what they do, and their bars move forward only."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store import step
from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener, StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens import tokenize
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig


class Recorder(Listener):
    """Keeps every report of progress."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, float, str, str]] = []
        self.warnings: list[str] = []

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

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


def test_vocabulary_is_learnt_from_a_bounded_part_of_unbroken_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenize, "MOST_UNBROKEN", 5000)
    monkeypatch.setattr(tokenize, "CHUNK", 1000)
    rng = random.Random(0)
    for name, letters in (("dna", "ACGT"), ("plain", "ACGT    ")):
        rows = (json.dumps({"text": "".join(rng.choices(letters, k=1000))}) for _ in range(20))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
        sources = {"sources": [{"uri": str(tmp_path / f"{name}.jsonl")}], "split": {"validation": 0, "test": 0}}
        corpus, _ = perform(Store(tmp_path / name), INGEST, IngestConfig.model_validate(sources))
        config = TokenizeConfig(encoding="bpe", vocabulary=270)
        _, heard = perform(Store(tmp_path / name), TOKENIZE, config, corpus=corpus)
        sentence = "The vocabulary is learnt from the first 5.0 KB, since their words hardly repeat."
        assert heard.warnings == ([sentence] if name == "dna" else [])
