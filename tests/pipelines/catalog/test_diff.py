"""Two versions of a dataset side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon

from pipelines.catalog.diff import compare, jensen_shannon
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig

BEFORE = {"one": "The quick brown fox.", "two": "The lazy dog.", "three": "It is gone tomorrow.", "four": "A twin."}
AFTER = {"one": "The quick brown fox.", "two": "The lazy dog sleeps.", "five": "It came today.", "four": "A twin."}


def build(store: Store, type: StepType, config: Any, inputs: dict[str, Dataset]) -> Dataset:
    step = type.using("news", config, inputs)
    return store.build(step, lambda out, scratch: type.run(inputs, config, out, StepContext(scratch)))


def corpus(store: Store, folder: Path, texts: dict[str, str], copies: int = 0) -> Dataset:
    records = [{"title": title, "text": text} for title, text in texts.items()]
    records += [{"title": f"copy {i}", "text": "A twin."} for i in range(copies)]
    path = folder / "news.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = IngestConfig(sources=[{"uri": str(path), "metadata": ["title"]}], split={"validation": 0, "test": 0})
    return build(store, INGEST, config, {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def test_documents_are_added_removed_or_changed(store: Store, tmp_path: Path) -> None:
    compared = compare(corpus(store, tmp_path, BEFORE, copies=1), corpus(store, tmp_path, AFTER, copies=3), store)
    documents = compared.documents
    assert documents and (documents.before, documents.after, documents.same) == (4, 4, 2)
    assert [document.text for document in documents.added] == ["It came today."]
    assert [document.text for document in documents.removed] == ["It is gone tomorrow."]
    assert [(x.text, y.text) for x, y in documents.changed] == [("The lazy dog.", "The lazy dog sleeps.")]
    assert documents.by_source == [("news.jsonl", "train", 4, 4)] and documents.resplit == 0
    assert compared.rejections == [("exact duplicate", 1, 3)]
    assert not compared.same and compared.tokens is None


def test_dataset_equals_itself(store: Store, tmp_path: Path) -> None:
    made = corpus(store, tmp_path, BEFORE)
    tokens = build(store, TOKENIZE, TokenizeConfig(encoding="characters"), {"corpus": made})
    compared = compare(tokens, tokens, store)
    assert compared.same and not compared.config and not compared.statistics and compared.documents is None
    assert compared.tokens and compared.tokens.divergence == 0 and compared.tokens.moved == []


def test_tokens_are_compared_by_their_text(store: Store, tmp_path: Path) -> None:
    before, after = corpus(store, tmp_path, BEFORE), corpus(store, tmp_path, AFTER | {"six": "zzzzzzzzzz"})
    a = build(store, TOKENIZE, TokenizeConfig(encoding="characters"), {"corpus": before})
    b = build(store, TOKENIZE, TokenizeConfig(encoding="characters"), {"corpus": after})
    compared = compare(a, b, store)
    assert compared.documents and compared.documents.n_changed == 1
    assert [role for role, _, _ in compared.inputs] == ["corpus"]
    assert compared.tokens and 0 < compared.tokens.divergence < 1
    assert compared.tokens.moved[0].text == "z"
    assert compared.tokens.before == sum(len(text) + 1 for text in BEFORE.values())
    words = build(store, TOKENIZE, TokenizeConfig(encoding="words"), {"corpus": before})
    assert compare(a, words, store).config == [("encoding", "characters", "words")]


def test_documents_in_another_split_are_counted(store: Store, tmp_path: Path) -> None:
    texts = {str(i): f"Text number {i}." for i in range(40)}
    a = corpus(store, tmp_path, texts)
    config = IngestConfig(
        sources=[{"uri": str(tmp_path / "news.jsonl"), "metadata": ["title"]}], split={"validation": 0.5}
    )
    documents = compare(a, build(store, INGEST, config, {}), store).documents
    assert documents and documents.same == 40 and 5 < documents.resplit < 35


def test_different_kinds_are_rejected(store: Store, tmp_path: Path) -> None:
    made = corpus(store, tmp_path, BEFORE)
    tokens = build(store, TOKENIZE, TokenizeConfig(encoding="characters"), {"corpus": made})
    with pytest.raises(InputError, match="different kinds"):
        compare(made, tokens, store)


def test_tokens_are_compared_without_their_corpora(store: Store, tmp_path: Path) -> None:
    made = [corpus(store, tmp_path, texts) for texts in (BEFORE, AFTER)]
    a, b = (build(store, TOKENIZE, TokenizeConfig(encoding="characters"), {"corpus": each}) for each in made)
    store.remove(made[0])
    compared = compare(a, b, store)
    assert compared.documents is None and compared.tokens and compared.tokens.divergence > 0


distributions = arrays(np.float64, 6, elements=st.one_of(st.just(0.0), st.floats(1e-9, 1))).filter(
    lambda each: each.sum() > 0.01
)


@given(distributions, distributions)
def test_divergence_equals_scipys(p: np.ndarray, q: np.ndarray) -> None:
    p, q = p / p.sum(), q / q.sum()
    assert jensen_shannon(p, q).sum() == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-9)
    assert (jensen_shannon(p, q) >= -1e-12).all()


def test_vanishing_share_does_not_make_the_divergence_infinite() -> None:
    p, q = np.array([1.0, 0.0]), np.array([1.0, 5e-324])
    assert jensen_shannon(p, q).sum() == 0
