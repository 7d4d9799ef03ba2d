"""Padded batches: each example once an epoch, a function of the position alone. Metrics are flushed in time."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt.config import gpt_config
from gpt.model import GPT
from gpt.train import TrainConfig
from pipelines.store.step import Listener, StepContext
from pipelines.training.batches import PaddedBatches
from pipelines.training.fit import fit

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


def test_drawn_examples_are_those_that_come():
    batches = PaddedBatches([[1]] * 10, list(range(10)), 5, 1, seed=0, draw=lambda rng: np.array([3] * 10))
    assert set(batches(0, 0).targets.tolist()) == {3}


def test_metrics_are_flushed_before_each_checkpoint_is_saved(tmp_path):
    calls = []

    class Recorder(Listener):
        def metrics(self, step, values):
            calls.append(step)

        def flush(self):
            calls.append(sorted(folder.name for folder in (tmp_path / "checkpoints").glob("step-*")))

    batches = PaddedBatches([[1, 2, 3]] * 4, [[2, 3, 4]] * 4, 2, 1, seed=0)
    config = TrainConfig(steps=4, checkpoint_every=2, log_every=1)
    model = GPT(gpt_config("pico", vocabulary=9, context=8))
    fit(model, batches, config, StepContext(tmp_path, Recorder()), evaluate=lambda model: {"val/loss": 1.0})
    assert calls == [0, 1, [], 2, 3, 4, ["step-00000002"]]
