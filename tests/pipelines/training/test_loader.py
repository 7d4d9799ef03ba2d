from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.batch import IGNORE, Batch
from gpt.config import gpt_config
from gpt.loss import next_token_loss
from gpt.model import GPT
from pipelines.catalog.catalog import connect
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store
from pipelines.tokens.order import permuted
from pipelines.tokens.samples import SAMPLE, Samples
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.training import loader as loader_module
from pipelines.training.loader import Loader
from pipelines.training.pretrain import PRETRAIN

CONTEXT, PACKED_CONTEXT = 8, 16
Build = Callable[..., Dataset]
Make = Callable[..., Loader]


@pytest.fixture
def data(build: Build, tmp_path: Path) -> tuple[Samples, Tokens]:
    texts = [f"document {i} counts " + " ".join(str(i * j) for j in range(20)) for i in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl")}], "split": {"validation": 0.2, "test": 0}})
    tokens = build(TOKENIZE, {"encoding": "words", "shard_tokens": 700}, corpus=corpus)
    return Samples(build(SAMPLE, {"context": CONTEXT}, tokens=tokens)), Tokens(tokens)


@pytest.fixture
def make(data: tuple[Samples, Tokens]) -> Make:
    return lambda split="train", **options: Loader(*data, split, **options)


def rows(batch: Batch) -> list[list[int]]:
    return batch.inputs.tolist()


def windows_of(data: tuple[Samples, Tokens], split: str) -> list[list[int]]:
    """Return the inputs of every sample of a split, in their stored order."""
    samples, tokens = data
    return [
        tokens.flat(shard)[start : start + CONTEXT].tolist()
        for shard, batch in samples.batches_of(split)
        for start in batch["start"].to_pylist()
    ]


@given(st.integers(1, 5000), st.integers(0, 2**32), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_order_of_an_epoch_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(np.arange(n), n, seed, epoch).tolist()) == list(range(n))


def test_orders_of_epochs_differ_and_look_random() -> None:
    n = 1000
    orders = [permuted(np.arange(n), n, seed, epoch) for seed in range(10) for epoch in range(10)]
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)
    expected = 1  # fixed points of a random permutation, on average
    assert 0.5 < np.mean([(order == np.arange(n)).sum() for order in orders]) / expected < 2
    neighbours = np.mean([(np.abs(np.diff(order)) == 1).sum() for order in orders])
    assert 1 < neighbours < 3  # a random permutation has 2
    where_zero_goes = np.array([order[0] for order in orders])
    assert 350 < where_zero_goes.mean() < 650


def test_targets_are_inputs_one_token_later(make: Make) -> None:
    batch = make(batch_size=4)(3, 0)
    assert batch.inputs.shape == batch.targets.shape == (4, CONTEXT)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def test_every_epoch_has_every_sample_once(make: Make, data: tuple[Samples, Tokens]) -> None:
    windows = windows_of(data, "train")
    n = len(windows)
    assert len({tuple(window) for window in windows}) == n and len(data[0].batches_of("train")) > 1  # several shards
    loader = make(batch_size=7)
    assert loader.n_samples == n
    seen = [window for step in range(3 * len(loader)) for window in rows(loader(step))]
    for epoch in range(2):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == sorted(windows)
    assert seen[:n] != seen[n : 2 * n]
    assert seen[:n] == [windows[sample] for sample in permuted(np.arange(n), n, seed=0, epoch=0)]


def test_batch_depends_on_its_position_only(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first, resumed = make(batch_size=4, accumulation=3), make(batch_size=4, accumulation=3)
    expected = {(step, micro): rows(first(step, micro)) for step in range(30) for micro in range(3)}
    assert all(rows(resumed(*position)) == expected[position] for position in [(29, 2), (0, 0), (7, 1)])
    for block in (1, 5 * 8 * 4 * (CONTEXT + 1)):  # bytes: a batch at a time, and five
        monkeypatch.setattr(loader_module, "BLOCK", block)
        in_small_steps = make(batch_size=4, accumulation=3)
        assert all(rows(in_small_steps(*position)) == batch for position, batch in expected.items())
    here_and_there = make(batch_size=4, accumulation=3, ahead=False)
    assert all(rows(here_and_there(*position)) == expected[position] for position in [(29, 2), (0, 0), (7, 1)])


def test_unshuffled_loader_keeps_the_order_of_the_samples(make: Make, data: tuple[Samples, Tokens]) -> None:
    windows = windows_of(data, "validation")
    loader = make("validation", batch_size=3, shuffle=False)
    assert [window for step in range(2) for window in rows(loader(step))] == windows[:6]
    text = loader(0).inputs.flatten().tolist()
    assert text[1:] == loader(0).targets.flatten().tolist()[:-1]


def test_split_without_samples_is_an_error(make: Make) -> None:
    with pytest.raises(InputError, match="has no test samples"):
        make("test", batch_size=2)


def test_next_batches_are_made_ahead(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "BLOCK", 2 * 8 * 4 * (CONTEXT + 1))  # two batches
    loader, straight = make(batch_size=4), make(batch_size=4)
    made: list[int] = []
    make_block = loader._make_block
    monkeypatch.setattr(loader, "_make_block", lambda block: made.append(block) or make_block(block))
    for step, ahead in [(0, [0, 1]), (1, [0, 1]), (2, [0, 1, 2]), (19, [0, 1, 2, 9, 10]), (18, [0, 1, 2, 9, 10])]:
        assert rows(loader(step)) == rows(straight(step))
        loader._thread.submit(int).result()  # the thread has come to its end
        assert made == ahead


def test_error_on_the_thread_reaches_the_caller(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make(batch_size=4)

    def broken(groups: Any, windows: Any) -> Batch:
        raise OSError("gone")

    monkeypatch.setattr(loader._windows, "batch", broken)
    with pytest.raises(OSError, match="gone"):
        loader(2)


def test_batches_are_pinned_for_a_gpu(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.data_ptr()) or tensor)
    batch = make(batch_size=4, ahead=False)(0)
    assert pinned == [batch.inputs.data_ptr(), batch.targets.data_ptr()]


@pytest.fixture
def packable(build: Build, tmp_path: Path) -> Dataset:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdef ", k=rng.choice([1, 3, 8, 14, 15, 16, 17, 40]))) + str(i) for i in range(80)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl")}], "split": {"validation": 0.2, "test": 0}})
    return build(TOKENIZE, {"encoding": "characters", "shard_tokens": 400}, corpus=corpus)


def documents_of(tokens: Dataset, split: str) -> list[list[int]]:
    shards = [batch for batch in Tokens(tokens).shards if batch["split"][0].as_py() == split]
    return [row for batch in shards for row in batch["tokens"].to_pylist()]


def pieces_of(batch: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    """Return the inputs, targets and positions of every piece in a batch."""
    assert batch.documents is not None and batch.positions is not None
    found = []
    for row in range(len(batch.inputs)):
        for number in range(int(batch.documents[row].max()) + 1):
            here = batch.documents[row] == number
            found.append(tuple(tensor[row][here].tolist() for tensor in (batch.inputs, batch.targets, batch.positions)))
    return found  # type: ignore[return-value]


def test_packed_windows_have_each_token_once_as_a_target(build: Build, packable: Dataset) -> None:
    samples = build(SAMPLE, {"context": PACKED_CONTEXT, "boundaries": "document"}, tokens=packable)
    for split in ("train", "validation"):
        loader = Loader(Samples(samples), Tokens(packable), split, batch_size=1, ahead=False)
        pieces = [piece for step in range(len(loader)) for piece in pieces_of(loader(step))]
        expected = [
            (document[at : at + PACKED_CONTEXT][: len(document) - 1 - at], document[at + 1 : at + 1 + PACKED_CONTEXT])
            for document in documents_of(packable, split)
            for at in range(0, len(document) - 1, PACKED_CONTEXT)
        ]
        assert sorted((inputs, targets) for inputs, targets, _ in pieces) == sorted(expected)
        assert all(positions == list(range(len(positions))) for _, _, positions in pieces)
    assert samples.manifest.statistics["cropped_share"] == 0


def test_padding_of_packed_windows_counts_nowhere(build: Build, packable: Dataset) -> None:
    samples = build(SAMPLE, {"context": PACKED_CONTEXT, "boundaries": "document"}, tokens=packable)
    padded = total = 0
    for split in ("train", "validation"):
        loader = Loader(Samples(samples), Tokens(packable), split, batch_size=1, shuffle=False, ahead=False)
        for step in range(len(loader)):
            batch = loader(step)
            assert batch.documents is not None
            assert torch.equal(batch.targets == IGNORE, batch.documents == -1)
            padded += int((batch.documents == -1).sum())
            total += batch.inputs.numel()
    assert (
        samples.manifest.statistics["padded_share"] == pytest.approx(padded / total, abs=1e-6) and padded < 0.2 * total
    )


def test_packed_window_has_the_loss_of_its_documents_alone(build: Build, packable: Dataset) -> None:
    samples = build(SAMPLE, {"context": PACKED_CONTEXT, "boundaries": "document"}, tokens=packable)
    loader = Loader(Samples(samples), Tokens(packable), "train", batch_size=6, ahead=False)
    torch.manual_seed(0)
    vocabulary = Tokens(packable).tokenizer.vocabulary
    model = GPT(gpt_config("gpt2", vocabulary=vocabulary, context=PACKED_CONTEXT, layers=2, heads=2, width=16)).eval()
    batch = loader(0)
    together, n = next_token_loss(model, batch)
    alone = [
        next_token_loss(model, Batch(torch.tensor([inputs]), torch.tensor([targets])))
        for inputs, targets, _ in pieces_of(batch)
    ]
    assert int(n) == sum(int(count) for _, count in alone)
    assert together.item() == pytest.approx(sum(loss.item() for loss, _ in alone), rel=1e-5)


@pytest.mark.parametrize("boundaries", ["stream", "document"])
def test_sql_tells_what_a_training_read(build: Build, store: Store, tmp_path: Path, boundaries: str) -> None:
    texts = [f"document {i} counts " + " ".join(str(i * j) for j in range(1 + i % 9)) for i in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl")}], "split": {"validation": 0.2, "test": 0}})
    tokens = build(TOKENIZE, {"encoding": "words", "shard_tokens": 300}, corpus=corpus)
    samples = build(SAMPLE, {"context": CONTEXT, "boundaries": boundaries}, tokens=tokens)
    tiny = {"steps": 9, "threads": 1, "batch_size": 4, "accumulation": 2, "model": {"size": "pico"}, "seed": 3}
    build(PRETRAIN, tiny, samples=samples, tokens=tokens)
    loader = Loader(Samples(samples), Tokens(tokens), "train", batch_size=4, accumulation=2, seed=3, ahead=False)
    told: dict[int, Counter[int]] = {step: Counter() for step in range(9)}
    ids = dict(connect(store).execute("SELECT doc_id, tokens FROM tokens").fetchall())
    query = """SELECT r.step, w.doc_id, w.position, w.n_tokens
        FROM readings r JOIN windows w ON w.dataset = r.samples AND w.sample_id = r.sample_id"""
    for step, doc_id, position, n_tokens in connect(store).execute(query).fetchall():
        told[step].update(ids[doc_id][position : position + n_tokens])
    batches = {step: [loader(step, micro).inputs.flatten().tolist() for micro in range(2)] for step in range(9)}
    filled = Tokens(tokens).tokenizer.end_of_text if boundaries == "document" else None
    assert told == {step: Counter(i for row in rows for i in row if i != filled) for step, rows in batches.items()}
