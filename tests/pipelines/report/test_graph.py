"""The lineage as a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpt.config import Config
from pipelines.report.graph import chain_to_svg, to_svg
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import SourceFile
from pipelines.store.step import StepType
from pipelines.store.store import Store

SPACE = "{http://www.w3.org/2000/svg}"


def make(store: Store, kind: str, name: str, sources: int = 0, **inputs: Dataset) -> Dataset:
    def run(out: Path, scratch: Path) -> dict[str, Any]:
        (out / "x").write_text("x")
        return {"parameters": 1234, "documents": 12_345}

    files = tuple(SourceFile(name=f"{i}.txt", bytes=600, sha256=f"{i}{i}" * 32) for i in range(sources))
    step_type = StepType(f"make-{kind}", kind, 1, Config, run, sources=(lambda _: files) if files else None)
    return store.build(step_type.using(name, Config(), inputs), run)


def test_graph_has_every_relative_and_no_redundant_arrow(store: Store) -> None:
    corpus = make(store, "corpus", "novel", sources=2)
    tokens = make(store, "tokens", "novel", corpus=corpus)
    samples = make(store, "samples", "novel", tokens=tokens)
    model = make(store, "model", "writer", samples=samples, tokens=tokens)
    exam = make(store, "evaluation", "exam", model=model, tokens=tokens)
    other = make(store, "tokens", "unrelated")
    drawn = to_svg(model, store.list())
    svg = ElementTree.fromstring(drawn)
    titles = [title.text.splitlines()[0] for title in svg.iter(f"{SPACE}title")]
    assert len(titles) == 6 and {str(each) for each in (corpus, tokens, samples, model, exam)} < set(titles)
    assert str(other) not in drawn and str(other) in chain_to_svg(store.list())
    assert len(list(svg.iter(f"{SPACE}path"))) == 5  # a chain: a direct arrow to a later link is implied
    places = [group.get("transform") for group in svg.iter(f"{SPACE}g")]
    assert len(set(places)) == len(places)
    assert "2 files" in drawn and "1.2 KB" in drawn and "12.3k documents" in drawn and "1,234 parameters" in drawn


def test_missing_input_is_drawn_as_such(store: Store) -> None:
    corpus = make(store, "corpus", "novel")
    tokens = make(store, "tokens", "novel", corpus=corpus)
    store.remove(corpus)
    assert "no longer in the store" in to_svg(tokens, store.list())
