import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.model import GPT
from gpt.optim import (
    SCHEDULES,
    AdamW,
    OptimizerConfig,
    learning_rate,
    make_optimizers,
    optimizer_tensors,
    orthogonalize,
    restore_optimizers,
)

COSINE = OptimizerConfig(steps=101, learning_rate=1.0, warmup=10, schedule="cosine", final_share=0.1)


def test_cosine_schedule_at_its_turning_points() -> None:
    assert learning_rate(0, COSINE) == pytest.approx(0.1)
    assert learning_rate(9, COSINE) == 1.0
    assert learning_rate(10, COSINE) == 1.0
    assert learning_rate(55, COSINE) == pytest.approx(0.55)
    assert learning_rate(100, COSINE) == pytest.approx(0.1)


def test_wsd_schedule_at_its_turning_points() -> None:
    config = COSINE.model_copy(update={"schedule": "wsd", "decay_share": 0.2})
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(9, config) == learning_rate(50, config) == learning_rate(80, config) == 1.0
    assert learning_rate(90, config) == pytest.approx(0.55)
    assert learning_rate(100, config) == pytest.approx(0.1)


@given(
    schedule=st.sampled_from(sorted(SCHEDULES)),
    steps=st.integers(1, 300),
    warmup=st.integers(0, 400),
    final=st.floats(0.01, 1),
)
@settings(max_examples=60, deadline=None)
def test_learning_rate_is_positive_and_at_most_its_peak(schedule: str, steps: int, warmup: int, final: float) -> None:
    config = OptimizerConfig(steps=steps, learning_rate=2.0, warmup=warmup, schedule=schedule, final_share=final)
    rates = [learning_rate(step, config) for step in range(steps)]
    assert all(0 < rate <= 2.0 + 1e-12 for rate in rates)
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_parameter_has_one_group_and_only_matrices_decay(make_model: Callable[..., GPT], optimizer: str) -> None:
    model = make_model()
    groups = [g for o in make_optimizers(model, OptimizerConfig(optimizer=optimizer)) for g in o.param_groups]
    grouped = [id(p) for g in groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(p) for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2}


def test_frozen_parameters_are_in_no_group(make_model: Callable[..., GPT]) -> None:
    model = make_model()
    model.tokens.requires_grad_(False)
    groups = [g for o in make_optimizers(model, OptimizerConfig()) for g in o.param_groups]
    assert all(p is not model.tokens.weight for g in groups for p in g["params"])
    with pytest.raises(ValueError, match="unfreeze"):
        make_optimizers(model.requires_grad_(False), OptimizerConfig())


def test_adamw_is_bit_identical_to_pytorchs() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((7, 5), (5,), (3, 2, 4))]
    ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    settings = [(ours[:2], theirs[:2], 0.1), (ours[2:], theirs[2:], 0.0)]
    mine = AdamW([{"params": p, "peak": 1e-2, "weight_decay": decay} for p, _, decay in settings], 0.9, 0.95, 1e-8)
    groups = [{"params": p, "weight_decay": decay} for _, p, decay in settings]
    reference = torch.optim.AdamW(groups, 1e-2, (0.9, 0.95), 1e-8, fused=True)
    for step in range(6):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = None if step % 3 == 1 and a.ndim == 1 else torch.randn(a.shape, generator=generator)
            b.grad = a.grad
        mine.step()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_training_does_not_import_pytorchs_compiler() -> None:
    script = """
import sys, torch
from gpt.config import gpt_config
from gpt.model import GPT
from gpt.batch import Batch
from gpt.train import TrainConfig, train
ids = torch.randint(0, 30, (2, 9))
model = GPT(gpt_config("pico", vocabulary=30, context=8))
train(model, lambda *_: Batch(ids[:, :-1], ids[:, 1:]), TrainConfig(steps=2))
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@given(rows=st.integers(2, 24), columns=st.integers(2, 24), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_orthogonalized_singular_values_are_near_one(rows: int, columns: int, seed: int) -> None:
    x = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    smallest = torch.linalg.svdvals(x).min(1).values / x.norm(dim=(1, 2))
    values = torch.linalg.svdvals(orthogonalize(x))
    assert values.max() < 1.3
    assert (values[smallest > 0.02] > 0.5).all()


def test_orthogonalize_keeps_singular_directions() -> None:
    x = torch.randn(1, 6, 10, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    similarity = (orthogonalize(x) * (u @ v)).sum() / math.sqrt(6) / orthogonalize(x).norm()
    assert similarity > 0.98


def test_optimizer_tensors_have_parameter_names_and_can_be_restored(make_model: Callable[..., GPT]) -> None:
    model = make_model()
    optimizers = make_optimizers(model, OptimizerConfig(optimizer="muon"))
    model(torch.arange(12).view(2, 6)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    tensors = optimizer_tensors(model, optimizers)
    assert "blocks.0.mlp.input.weight/momentum" in tensors and "tokens.weight/exp_avg" in tensors
    fresh = make_optimizers(model, OptimizerConfig(optimizer="muon"))
    restore_optimizers(model, fresh, tensors)
    restored = optimizer_tensors(model, fresh)
    assert restored.keys() == tensors.keys()
    assert all(torch.equal(restored[name], tensor) for name, tensor in tensors.items())
