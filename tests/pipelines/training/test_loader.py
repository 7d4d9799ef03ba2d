from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.batch import Batch
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.tokens.samples import SAMPLE, Samples
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.training import loader as loader_module
from pipelines.training.loader import Loader, permuted

CONTEXT = 8
Make = Callable[..., Loader]


@pytest.fixture
def make(build: Callable[..., Dataset], tmp_path: Path) -> Make:
    texts = [f"document {i} counts " + " ".join(str(i * j) for j in range(20)) for i in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl")}], "split": {"validation": 0.2, "test": 0}})
    tokens = build(TOKENIZE, {"encoding": "words", "shard_tokens": 700}, corpus=corpus)
    samples = build(SAMPLE, {"context": CONTEXT}, tokens=tokens)
    return lambda split="train", **options: Loader(Samples(samples), Tokens(tokens), split, **options)


def rows(batch: Batch) -> list[list[int]]:
    return batch.inputs.tolist()


@given(st.integers(1, 5000), st.integers(0, 2**32), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_order_of_an_epoch_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(np.arange(n), n, seed, epoch).tolist()) == list(range(n))


def test_orders_differ_by_seed_and_epoch_and_look_drawn() -> None:
    n = 1000
    orders = [permuted(np.arange(n), n, seed, epoch) for seed in range(10) for epoch in range(10)]
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)
    expected = 1  # fixed points of a random permutation, on average
    assert 0.5 < np.mean([(order == np.arange(n)).sum() for order in orders]) / expected < 2
    neighbours = np.mean([(np.abs(np.diff(order)) == 1).sum() for order in orders])
    assert 1 < neighbours < 3  # a random permutation has 2
    where_zero_goes = np.array([order[0] for order in orders])
    assert 350 < where_zero_goes.mean() < 650


def test_targets_are_the_inputs_one_token_further(make: Make) -> None:
    batch = make(batch_size=4)(3, 0)
    assert batch.inputs.shape == batch.targets.shape == (4, CONTEXT)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def test_each_sample_is_seen_once_in_every_epoch(make: Make) -> None:
    loader = make(batch_size=7)
    seen = np.concatenate([loader.samples_at(step) for step in range(3 * len(loader))])
    n = loader.n_samples
    for epoch in range(2):
        assert sorted(seen[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))
    assert seen[:n].tolist() != seen[n : 2 * n].tolist()


def test_batches_hold_the_windows_that_the_samples_name(make: Make) -> None:
    loader = make(batch_size=5, seed=3)
    in_order = make(batch_size=1, shuffle=False)
    assert len(loader._windows.first) > 2  # several shards
    for step in range(len(loader)):
        assert rows(loader(step)) == [rows(in_order(int(sample)))[0] for sample in loader.samples_at(step)]


def test_a_batch_is_a_function_of_its_position_alone(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first, resumed = make(batch_size=4, accumulation=3), make(batch_size=4, accumulation=3)
    expected = {(step, micro): rows(first(step, micro)) for step in range(30) for micro in range(3)}
    assert all(rows(resumed(*position)) == expected[position] for position in [(29, 2), (0, 0), (7, 1)])
    for block in (1, 5 * 8 * 4 * (CONTEXT + 1)):  # bytes: a batch at a time, and five
        monkeypatch.setattr(loader_module, "BLOCK", block)
        in_small_steps = make(batch_size=4, accumulation=3)
        assert all(rows(in_small_steps(*position)) == batch for position, batch in expected.items())
    here_and_there = make(batch_size=4, accumulation=3, ahead=False)
    assert all(rows(here_and_there(*position)) == expected[position] for position in [(29, 2), (0, 0), (7, 1)])


def test_unshuffled_it_reads_the_samples_as_they_lie(make: Make) -> None:
    loader = make("validation", batch_size=3, shuffle=False)
    assert loader.samples_at(0).tolist() == [0, 1, 2]
    text = loader(0).inputs.flatten().tolist()
    assert text[1:] == loader(0).targets.flatten().tolist()[:-1]


def test_what_cannot_be_loaded_is_one_sentence(make: Make) -> None:
    with pytest.raises(InputError, match="has no test samples"):
        make("test", batch_size=2)


def test_the_next_batches_are_made_while_these_are_used(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "BLOCK", 2 * 8 * 4 * (CONTEXT + 1))  # two batches
    loader, straight = make(batch_size=4), make(batch_size=4)
    made: list[int] = []
    make_block = loader._make_block
    monkeypatch.setattr(loader, "_make_block", lambda block: made.append(block) or make_block(block))
    for step, ahead in [(0, [0, 1]), (1, [0, 1]), (2, [0, 1, 2]), (19, [0, 1, 2, 9, 10]), (18, [0, 1, 2, 9, 10])]:
        assert rows(loader(step)) == rows(straight(step))
        loader._thread.submit(int).result()  # the thread has come to its end
        assert made == ahead


def test_an_error_on_the_thread_reaches_the_caller(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make(batch_size=4)

    def broken(groups: Any, windows: Any) -> Batch:
        raise OSError("gone")

    monkeypatch.setattr(loader._windows, "batch", broken)
    with pytest.raises(OSError, match="gone"):
        loader(2)


def test_where_there_is_a_gpu_batches_are_pinned(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.data_ptr()) or tensor)
    batch = make(batch_size=4, ahead=False)(0)
    assert pinned == [batch.inputs.data_ptr(), batch.targets.data_ptr()]
