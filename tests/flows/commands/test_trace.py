"""`tokenmill trace`: both trees of a dataset, and the results of a file or a document."""

from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from flows.commands.trace import MAX_FILES, trace
from gpt.config import Config
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def ingest(store: Store, tmp_path: Path, files: int = 1) -> Dataset:
    for i in range(files):
        (tmp_path / f"book{i}.txt").write_text(f"It was a dark and stormy night, number {i}.")
    config = IngestConfig(sources=[{"uri": str(tmp_path / "*.txt")}])
    step = INGEST.using("novel", config)
    return store.build(step, lambda out, scratch: INGEST.run({}, config, out, StepContext(scratch)))


def make(store: Store, kind: str, name: str, inputs: dict[str, Dataset]) -> Dataset:
    def run(out: Path, scratch: Path) -> dict[str, int]:
        (out / "x").write_text("x")
        return {"parameters": 1234}

    step = StepType(f"make-{kind}", kind, 1, Config, run).using(name, Config(), inputs)
    return store.build(step, run)


def traced(what: str, store: Store) -> str:
    out = io.StringIO()
    trace(what, store, console=Console(file=out, width=200))
    return out.getvalue()


def test_model_is_traced_to_files_and_file_to_models(store: Store, tmp_path: Path) -> None:
    corpus = ingest(store, tmp_path)
    tokens = make(store, "tokens", "novel", {"corpus": corpus})
    model = make(store, "model", "writer", {"tokens": tokens, "corpus": corpus})
    drawn = traced("model/writer", store)
    assert "book0.txt@" in drawn and "(drawn above)" in drawn and "1,234 parameters" in drawn
    for what in ("book0.txt", str(tmp_path / "book0.txt")):
        drawn = traced(what, store)
        assert str(tokens) in drawn and f"must be trained again if it has to go: {model}" in drawn.replace("\n", "")


def test_document_is_traced_to_the_models_that_saw_it(store: Store, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    corpus = ingest(store, tmp_path, files=3)
    drawn = traced(str(corpus), store)
    assert "novel" in drawn
    part = next(name for name in corpus.manifest.files if name.startswith("documents"))
    row = pq.read_table(corpus.path / part).to_pylist()[0]
    drawn = traced(row["doc_id"], store)
    assert row["text"] in drawn and "No model was made of it." in drawn


def test_many_files_are_counted(store: Store, tmp_path: Path) -> None:
    drawn = traced(str(ingest(store, tmp_path, files=MAX_FILES + 3)), store)
    assert "and 3 more source files" in drawn


def test_unknown_name_is_one_sentence(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Nothing called 'nonsense'"):
        traced("nonsense", store)
    (tmp_path / "new.txt").write_text("never read")
    with pytest.raises(InputError, match=r"new\.txt was never read"):
        traced(str(tmp_path / "new.txt"), store)


def test_page_has_the_graph_and_loads_nothing(store: Store, tmp_path: Path) -> None:
    corpus = ingest(store, tmp_path, files=2)
    page = tmp_path / "page.html"
    trace(str(corpus), store, page, Console(file=io.StringIO()))
    drawn = page.read_text()
    assert "2 files" in drawn and "<svg" in drawn and not re.search("(src|href)=", drawn)
    ElementTree.fromstring(re.search("<svg.*</svg>", drawn, re.DOTALL)[0])
