"""Padded batches: each example once an epoch, a function of the position alone; padding and masks."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt.batch import IGNORE, pad
from pipelines.training.batches import PaddedBatches

sequences = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=12), min_size=1, max_size=70)


@given(sequences=sequences, batch_size=st.integers(1, 9), accumulation=st.integers(1, 3), seed=st.integers(0, 5))
def test_an_epoch_visits_every_example_at_most_once_and_leaves_out_less_than_a_batch(
    sequences, batch_size, accumulation, seed
):
    batches = PaddedBatches(sequences, list(range(len(sequences))), batch_size, accumulation, seed)
    for epoch in range(2):
        positions = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        seen = [int(i) for at in positions for i in batches(*divmod(at, accumulation)).targets]
        assert len(seen) == len(set(seen)) > len(sequences) - batches.batch_size


@given(sequences=sequences, step=st.integers(0, 1000))
def test_a_batch_is_a_function_of_the_position_alone(sequences, step):
    fresh, used = (PaddedBatches(sequences, [0] * len(sequences), 4, 2, seed=1) for _ in range(2))
    for earlier in range(3):
        used(earlier, 0)
    assert torch.equal(fresh(step, 1).inputs, used(step, 1).inputs)


@given(sequences=sequences)
def test_evaluation_sees_every_example_once(sequences):
    batches = PaddedBatches(sequences, list(range(len(sequences))), 4, 1, seed=0).in_order()
    assert sorted(int(i) for batch in batches for i in batch.targets) == list(range(len(sequences)))


def test_padding_is_ignored_and_lengths_tell_it():
    batch = pad([[5, 6, 7], [8]], [[6, 7, 9], [IGNORE]])
    assert batch.inputs.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, 9], [IGNORE, IGNORE, IGNORE]]
    assert batch.lengths.tolist() == [3, 1]
    assert pad([[5], [6, 7]], [1, 0]).targets.tolist() == [1, 0]


def test_drawn_examples_are_those_that_come():
    batches = PaddedBatches([[1]] * 10, list(range(10)), 5, 1, seed=0, draw=lambda rng: np.array([3] * 10))
    assert set(batches(0, 0).targets.tolist()) == {3}
