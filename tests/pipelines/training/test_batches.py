from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt.batch import IGNORE, Batch, pad
from gpt.config import gpt_config
from gpt.loss import next_token_loss
from gpt.model import GPT
from pipelines.training.batches import PackedBatches, PaddedBatches

sequences = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=12), min_size=1, max_size=70)


@given(sequences=sequences, batch_size=st.integers(1, 9), accumulation=st.integers(1, 3), seed=st.integers(0, 5))
def test_epoch_leaves_out_less_than_a_batch(sequences, batch_size, accumulation, seed):
    batches = PaddedBatches(sequences, list(range(len(sequences))), batch_size, accumulation, seed)
    for epoch in range(2):
        positions = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        seen = [int(i) for at in positions for i in batches(*divmod(at, accumulation)).targets]
        assert len(seen) == len(set(seen)) > len(sequences) - batches.batch_size


@given(sequences=sequences, step=st.integers(0, 1000))
def test_batch_depends_on_its_position_only(sequences, step):
    fresh, used = (PaddedBatches(sequences, [0] * len(sequences), 4, 2, seed=1) for _ in range(2))
    for earlier in range(3):
        used(earlier, 0)
    assert torch.equal(fresh(step, 1).inputs, used(step, 1).inputs)


@given(sequences=sequences)
def test_evaluation_sees_every_example_once(sequences):
    batches = PaddedBatches(sequences, list(range(len(sequences))), 4, 1, seed=0).in_order()
    assert sorted(int(i) for batch in batches for i in batch.targets) == list(range(len(sequences)))


def test_epoch_has_the_drawn_examples():
    batches = PaddedBatches([[1]] * 10, list(range(10)), 5, 1, seed=0, draw=lambda rng: np.array([3] * 10))
    assert set(batches(0, 0).targets.tolist()) == {3}


def model(preset: str) -> GPT:
    torch.manual_seed(0)
    return GPT(gpt_config("pico", preset, vocabulary=100, context=32, layers=1, width=16, zero_init=False)).eval()


MODELS = {preset: model(preset) for preset in ("gpt2", "modern")}
lengths = st.lists(st.integers(2, 32), min_size=1, max_size=12)


def learnable(lengths: list[int]) -> tuple[list[list[int]], list[list[int]]]:
    """Return random token ids of these lengths, and targets whose first third is not learnt."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 100, length).tolist() for length in lengths]
    targets = [[IGNORE] * (length // 3) + rng.integers(0, 100, length - length // 3).tolist() for length in lengths]
    return ids, targets


@pytest.mark.parametrize("preset", MODELS)
@given(lengths=lengths, batch_size=st.integers(1, 4))
def test_packed_examples_have_the_loss_of_each_alone(preset: str, lengths: list[int], batch_size: int) -> None:
    ids, targets = learnable(lengths)
    packed = PackedBatches(ids, targets, batch_size, 1, 0, context=32)
    assert sorted(i for window in packed.items for i in window) == list(range(len(lengths)))
    together, n = next_token_loss(MODELS[preset], packed.batch(range(len(packed.items))))
    alone, m = next_token_loss(MODELS[preset], pad(ids, targets))
    assert int(n) == int(m) and together.item() == pytest.approx(alone.item(), rel=1e-4)
    epoch = [packed(at, 0).inputs for at in range(packed.batches_per_epoch)]
    assert sum(len(batch) for batch in epoch) > len(packed.items) - packed.batch_size
    assert torch.equal(packed(7, 0).inputs, PackedBatches(ids, targets, batch_size, 1, 0, context=32)(7, 0).inputs)


def test_packed_gradients_are_those_of_the_examples_alone() -> None:
    ids, targets = learnable([*range(3, 11)])
    packed = PackedBatches(ids, targets, 9, 1, 0, context=32)
    assert len(packed.items) < len(ids)

    def gradient(batch: Batch) -> tuple[torch.Tensor, ...]:
        loss, _ = next_token_loss(MODELS["modern"], batch)
        return torch.autograd.grad(loss, list(MODELS["modern"].parameters()), allow_unused=True)

    for a, b in zip(gradient(packed.batch(range(len(packed.items)))), gradient(pad(ids, targets)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
