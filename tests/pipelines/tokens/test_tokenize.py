from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipelines.corpus.documents import SPLITS
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import read_rows
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store
from pipelines.tokens import tokenize
from pipelines.tokens.samples import SAMPLE, Samples
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig

Build = Callable[..., Dataset]
BPE = {"encoding": "bpe", "vocabulary": 300}


@pytest.fixture
def corpus(build: Build, tmp_path: Path) -> Dataset:
    rng = random.Random(0)
    words = ["the", "mill", "grinds", "slowly", "but", "it", "grinds", "well", "and", "the", "Mühle", "mahlt"]
    for i in range(6):
        rows = [{"text": f"{i} {j} " + " ".join(rng.choices(words, k=rng.randint(1, 60)))} for j in range(40)]
        path = tmp_path / f"texts/{i}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "texts/x.txt").write_text("it spells <|endoftext|> out")
    config = {"uri": str(tmp_path / "texts")}, {"validation": 0.2, "test": 0.1}
    return build(INGEST, {"sources": [config[0]], "split": config[1], "partition_bytes": 8000})


def by_document(tokens: Dataset) -> dict[str, tuple[str, list[int]]]:
    return {
        row["doc_id"]: (row["split"], row["tokens"])
        for batch in Tokens(tokens).shards
        for row in batch.to_pylist()
        if row["n_tokens"] == len(row["tokens"])
    }


@pytest.mark.parametrize("encoding", [{"encoding": "gpt2"}, BPE, {"encoding": "words"}])
def test_every_document_is_in_one_shard_of_its_split_and_ends_with_the_end_of_text(
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
    found = by_document(dataset)
    assert found.keys() == rows.keys()
    for doc_id, (split, ids) in found.items():
        assert split == rows[doc_id]["split"]
        assert ids == [*tokens.tokenizer.encode(rows[doc_id]["text"]).tolist(), tokens.tokenizer.end_of_text]
    statistics = dataset.manifest.statistics
    for split in SPLITS:
        assert statistics[f"tokens_{split}"] == sum(map(len, tokens.streams(split))) > 0
        assert statistics[f"bytes_{split}"] == sum(row["n_bytes"] for row in rows.values() if row["split"] == split)
    assert statistics["tokens"] == sum(len(ids) for _, ids in found.values())


def test_documents_come_in_the_order_of_the_corpus(build: Build, corpus: Dataset) -> None:
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


def test_ids_are_a_view_of_the_mapped_file(build: Build, corpus: Dataset) -> None:
    flat = Tokens(build(TOKENIZE, BPE, corpus=corpus)).flat(0)
    assert flat.dtype == np.uint16 and not flat.flags.owndata and not flat.flags.writeable


def test_shards_hold_whole_documents_and_no_more_tokens_than_asked_for(build: Build, corpus: Dataset) -> None:
    whole = by_document(build(TOKENIZE, BPE, corpus=corpus))
    dataset = build(TOKENIZE, {**BPE, "shard_tokens": 100}, corpus=corpus)
    assert by_document(dataset) == whole
    assert dataset.manifest.statistics["shards"] > 20
    assert all(len(Tokens(dataset).flat(i)) <= 100 for i in range(len(Tokens(dataset).shards)))
    tiny = build(TOKENIZE, {**BPE, "shard_tokens": 1}, corpus=corpus)
    assert by_document(tiny) == whole and tiny.manifest.statistics["shards"] == len(whole)


def backwards(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [function(item) for item in list(items)[::-1]][::-1]


def test_bytes_do_not_depend_on_workers_or_on_chunks(
    build: Build, store: Store, corpus: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(TOKENIZE, BPE, corpus=corpus)
    store.remove(first)
    monkeypatch.setattr(tokenize, "CHUNK", 100)
    again = build(TOKENIZE, BPE, backwards, corpus=corpus)
    assert again.manifest.digest == first.manifest.digest


def test_a_killed_tokenize_goes_on_where_it_was(build: Build, corpus: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_encoding_of_the_corpus_learns_from_its_training_split_alone(build: Build, tmp_path: Path) -> None:
    texts = [f"common words {chr(0x3B1 + i)}" for i in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    split = {"validation": 0.5, "test": 0}
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl")}], "split": split})
    tokenizer = Tokens(build(TOKENIZE, {"encoding": "characters"}, corpus=corpus)).tokenizer
    held_out = [
        row["text"][-1] for row in read_rows(corpus.path / "documents/part-00000.parquet") if row["split"] != "train"
    ]
    assert held_out and all(tokenizer.special["<|unk|>"] in tokenizer.encode(letter) for letter in held_out)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"encoding": "bpe"}, "vocabulary has to say"),
        ({"encoding": "gpt2", "vocabulary": 1000}, "cannot be set for 'gpt2'"),
        ({"encoding": "nothing"}, "no encoding 'nothing'"),
    ],
)
def test_a_wrong_encoding_is_said_before_anything_starts(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TokenizeConfig(**config)


# Samples


@pytest.mark.parametrize("stride", [3, 8, 13])
def test_windows_lie_a_stride_apart_and_leave_room_for_their_targets(
    build: Build, corpus: Dataset, stride: int
) -> None:
    dataset = build(TOKENIZE, {**BPE, "shard_tokens": 500}, corpus=corpus)
    tokens = Tokens(dataset)
    samples = Samples(build(SAMPLE, {"context": 8, "stride": stride}, tokens=dataset))
    for split in SPLITS:
        step = stride if split == "train" else 8
        starts = {(shard, start) for shard, batch in samples.batches_of(split) for start in batch["start"].to_pylist()}
        assert starts == {
            (shard, start)
            for shard in range(len(tokens.shards))
            if tokens.split(shard) == split
            for start in range(0, len(tokens.flat(shard)), step)
            if start + 8 + 1 <= len(tokens.flat(shard))
        }


def test_a_sample_names_the_document_of_its_first_token(build: Build, corpus: Dataset) -> None:
    dataset = build(TOKENIZE, BPE, corpus=corpus)
    shards = [batch.to_pylist() for batch in Tokens(dataset).shards]
    rows = [
        row for batch in Samples(build(SAMPLE, {"context": 5}, tokens=dataset)).batches for row in batch.to_pylist()
    ]
    assert [row["sample_id"] for row in rows] == list(range(len(rows)))
    for row in rows:
        seen = 0
        for document in shards[row["shard"]]:
            seen += document["n_tokens"]
            if row["start"] < seen:
                assert (row["doc_id"], row["split"]) == (document["doc_id"], document["split"])
                break


def test_a_context_longer_than_any_shard_says_how_long_they_are(build: Build, store: Store, corpus: Dataset) -> None:
    dataset = build(TOKENIZE, BPE, corpus=corpus)
    with pytest.raises(InputError, match=r"context is 100000, but the longest training shard of .* has \d+ tokens"):
        build(SAMPLE, {"context": 100_000}, tokens=dataset)
    assert not store.list("samples")


def test_a_held_out_split_too_short_for_a_window_is_a_warning(build: Build, corpus: Dataset, warnings: Any) -> None:
    dataset = build(TOKENIZE, BPE, corpus=corpus)
    longest = max(map(len, Tokens(dataset).streams("test")))
    assert longest < max(map(len, Tokens(dataset).streams("train"))) - 1
    samples = build(SAMPLE, {"context": longest}, tokens=dataset)
    assert samples.manifest.statistics["samples_test"] == 0 and "no test samples" in warnings.sentences[0]
