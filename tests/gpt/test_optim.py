import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.model import GPT
from gpt.optim import SCHEDULES, OptimizerConfig, learning_rate, make_optimizers, orthogonalize

COSINE = OptimizerConfig(steps=101, learning_rate=1.0, warmup=10, schedule="cosine", final_share=0.1)


def test_cosine_at_its_turning_points() -> None:
    assert learning_rate(0, COSINE) == pytest.approx(0.1)
    assert learning_rate(9, COSINE) == 1.0
    assert learning_rate(10, COSINE) == 1.0
    assert learning_rate(55, COSINE) == pytest.approx(0.55)
    assert learning_rate(100, COSINE) == pytest.approx(0.1)


def test_warmup_stable_decay_at_its_turning_points() -> None:
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
def test_the_rate_is_never_above_its_peak_nor_at_zero(schedule: str, steps: int, warmup: int, final: float) -> None:
    config = OptimizerConfig(steps=steps, learning_rate=2.0, warmup=warmup, schedule=schedule, final_share=final)
    rates = [learning_rate(step, config) for step in range(steps)]
    assert all(0 < rate <= 2.0 + 1e-12 for rate in rates)
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(
    make_model: Callable[..., GPT], optimizer: str
) -> None:
    model = make_model()
    groups = [g for o in make_optimizers(model, OptimizerConfig(optimizer=optimizer)) for g in o.param_groups]
    grouped = [id(p) for g in groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(p) for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2}


def test_frozen_parameters_are_left_out(make_model: Callable[..., GPT]) -> None:
    model = make_model()
    model.tokens.requires_grad_(False)
    groups = [g for o in make_optimizers(model, OptimizerConfig()) for g in o.param_groups]
    assert all(p is not model.tokens.weight for g in groups for p in g["params"])
    with pytest.raises(ValueError, match="unfreeze"):
        make_optimizers(model.requires_grad_(False), OptimizerConfig())


@given(rows=st.integers(2, 24), columns=st.integers(2, 24), seed=st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_orthogonalized_singular_values_are_near_one(rows: int, columns: int, seed: int) -> None:
    x = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    smallest = torch.linalg.svdvals(x).min(1).values / x.norm(dim=(1, 2))
    values = torch.linalg.svdvals(orthogonalize(x))
    assert values.max() < 1.3
    assert (values[smallest > 0.02] > 0.5).all()


def test_orthogonalize_keeps_the_directions() -> None:
    x = torch.randn(1, 6, 10, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    similarity = (orthogonalize(x) * (u @ v)).sum() / math.sqrt(6) / orthogonalize(x).norm()
    assert similarity > 0.98
