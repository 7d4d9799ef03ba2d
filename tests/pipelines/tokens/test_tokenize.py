from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.corpus.documents import SPLITS
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.mix import MIX
from pipelines.corpus.parquet import read_rows
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext
from pipelines.store.store import Store
from pipelines.tokens import tokenize
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig

Build = Callable[..., Dataset]
BPE = {"encoding": "bpe", "vocabulary": 300}


@pytest.mark.parametrize("encoding", [{"encoding": "gpt2"}, BPE, {"encoding": "words"}])
def test_documents_are_encoded_once_in_a_shard_of_their_split(
    build: Build, corpus: Dataset, encoding: dict[str, Any]
) -> None:
    dataset = build(TOKENIZE, encoding, corpus=corpus)
    tokens = Tokens(dataset)
    rows = {
        row["doc_id"]: row
        for name in corpus.manifest.files
        if name.startswith("documents/")
        for row in read_rows(corpus.file(name))
    }
    found = {
        row["doc_id"]: (row["split"], row["tokens"])
        for batch in tokens.shards
        for row in batch.to_pylist()
        if row["n_tokens"] == len(row["tokens"])
    }
    assert found.keys() == rows.keys()
    for doc_id, (split, ids) in found.items():
        assert split == rows[doc_id]["split"]
        assert ids == [*tokens.tokenizer.encode(rows[doc_id]["text"]).tolist(), tokens.tokenizer.end_of_text]
    statistics = dataset.manifest.statistics
    for split in SPLITS:
        assert statistics[f"tokens_{split}"] == sum(map(len, tokens.streams(split))) > 0
        assert statistics[f"bytes_{split}"] == sum(row["n_bytes"] for row in rows.values() if row["split"] == split)
    assert statistics["tokens"] == sum(len(ids) for _, ids in found.values())


def test_documents_keep_the_order_of_the_corpus(build: Build, corpus: Dataset) -> None:
    order = [
        row["doc_id"]
        for name in sorted(corpus.manifest.files)
        if name.startswith("documents/")
        for row in read_rows(corpus.file(name))
    ]
    tokens = Tokens(build(TOKENIZE, {"encoding": "characters"}, corpus=corpus))
    for split in SPLITS:
        shards = [batch for batch in tokens.shards if batch["split"][0].as_py() == split]
        ids = [doc_id for batch in shards for doc_id in batch["doc_id"].to_pylist()]
        assert ids == [doc_id for doc_id in order if doc_id in set(ids)]


def backwards(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [function(item) for item in list(items)[::-1]][::-1]


def test_bytes_do_not_depend_on_workers_or_chunks(
    build: Build, store: Store, corpus: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(TOKENIZE, BPE, corpus=corpus)
    store.remove(first)
    monkeypatch.setattr(tokenize, "CHUNK", 100)
    again = build(TOKENIZE, BPE, backwards, corpus=corpus)
    assert again.manifest.digest == first.manifest.digest


def test_killed_tokenize_keeps_its_finished_parts(
    build: Build, corpus: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    real = tokenize.read_batches

    def read(path: Path, columns: Any = None) -> Any:
        started.append(path)
        if len(started) == 3:
            raise KeyboardInterrupt
        return real(path, columns)

    monkeypatch.setattr(tokenize, "read_batches", read)
    with pytest.raises(KeyboardInterrupt):
        build(TOKENIZE, BPE, corpus=corpus)
    build(TOKENIZE, BPE, corpus=corpus)
    assert len(started) == corpus.manifest.statistics["parts"] + 1


def test_repeated_parts_have_shards_of_their_own(build: Build, corpus: Dataset, tmp_path: Path) -> None:
    mix = build(MIX, {"epochs": {"a": 2}}, a=corpus)
    first = build(TOKENIZE, {"encoding": "characters"}, corpus=mix)
    parts = json.loads(first.file("parts.json").read_text())
    assert len({key for key, _ in parts}) < len(parts)
    names = [name for _, shards in parts for name, *_ in shards]
    assert sorted(names) == sorted(name for name in first.manifest.files if name.endswith(".arrow"))
    out = tmp_path / "again"
    out.mkdir()
    config = TokenizeConfig(encoding="characters")
    statistics = TOKENIZE.run({"corpus": mix}, config, out, StepContext(tmp_path, previous=first))
    assert statistics["parts_shared"] == len(parts)
    assert all((out / name).read_bytes() == first.file(name).read_bytes() for name in first.manifest.files)


def test_vocabulary_is_learnt_from_the_training_split_only(build: Build, tmp_path: Path) -> None:
    texts = [f"common words {chr(0x3B1 + i)}" for i in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    split = {"validation": 0.5, "test": 0}
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl")}], "split": split})
    tokenizer = Tokens(build(TOKENIZE, {"encoding": "characters"}, corpus=corpus)).tokenizer
    held_out = [
        row["text"][-1] for row in read_rows(corpus.path / "documents/part-00000.parquet") if row["split"] != "train"
    ]
    assert held_out and all(tokenizer.special["<|unk|>"] in tokenizer.encode(letter) for letter in held_out)


def test_vocabulary_that_is_too_large_tells_of_rejected_records(build: Build, tmp_path: Path) -> None:
    lines = [*(json.dumps({"text": f"few words {i}"}) for i in range(9)), "no record", "nor this"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl")}]})
    with pytest.raises(
        InputError, match=r"vocabulary of \d+, not of 1024; ask for less\. 2 records were rejected; tokenmill"
    ):
        build(TOKENIZE, {"encoding": "bpe", "vocabulary": 1024}, corpus=corpus)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"encoding": "bpe"}, "vocabulary has to say"),
        ({"encoding": "gpt2", "vocabulary": 1000}, "cannot be set for 'gpt2'"),
        ({"encoding": "nothing"}, "no encoding 'nothing'"),
    ],
)
def test_config_rejects_wrong_encodings(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        TokenizeConfig(**config)
