from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import machine
from gpt.batch import Batch
from gpt.machine import fast_matmul, linear, measure_peak, peak_memory
from gpt.model import GPT
from gpt.train import TrainConfig, train
from gpt.weights import load_model, save_model

CPU = torch.device("cpu")
PROCESSOR = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""


@pytest.mark.parametrize("forced", [False, True])
@given(
    batch=st.integers(1, 3),
    time=st.integers(1, 9),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    bias=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_fast_product_and_its_gradients_are_exact(
    forced: bool, batch: int, time: int, inputs: int, outputs: int, bias: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(batch, time, inputs, requires_grad=True)
    weight = torch.randn(outputs, inputs, requires_grad=True)
    arguments = [x, weight] + ([torch.randn(outputs, requires_grad=True)] if bias else [])
    slope = torch.randn(batch, time, outputs)
    with pytest.MonkeyPatch.context() as patch:
        if forced:
            patch.setattr(machine, "_onednn_is_exact_and_faster", lambda: machine.ONEDNN is not None)
        if forced and "amx" in PROCESSOR:  # oneDNN would round on this processor
            patch.setattr(machine, "ONEDNN", SimpleNamespace(fp32_precision="none"))
        fast = linear(*arguments)
        gradients = torch.autograd.grad((fast * slope).sum(), arguments)
    exact = F.linear(*(a.double() for a in arguments))
    expected = torch.autograd.grad((exact * slope).sum(), arguments)
    torch.testing.assert_close(fast.double(), exact, atol=1e-4, rtol=1e-4)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(machine.ONEDNN is None, reason="this torch has no such setting")
def test_fast_matmul_restores_the_setting_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_onednn_is_exact_and_faster", lambda: True)
    before = machine.ONEDNN.fp32_precision
    with pytest.raises(ZeroDivisionError), fast_matmul():
        assert machine.ONEDNN.fp32_precision == "bf16"
        1 / 0  # noqa: B018
    assert machine.ONEDNN.fp32_precision == before


def test_loaded_model_trains_like_the_saved_one(make_model: Callable[..., GPT], tmp_path: Path) -> None:
    saved = make_model()
    save_model(saved, tmp_path)
    loaded = load_model(tmp_path)
    ids = torch.randint(0, 97, (4, 17))
    for model in (saved, loaded):
        train(model, lambda step, micro: Batch(ids[:, :-1], ids[:, 1:]), TrainConfig(steps=3))
    for a, b in zip(saved.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b) and a.is_contiguous() and b.is_contiguous()


def test_peak_speed_and_memory_are_plausible() -> None:
    assert 1e8 < measure_peak(CPU, torch.float32) < 1e15
    assert 5e7 < peak_memory(CPU) < 1e12
