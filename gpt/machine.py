"""The machine under the model: its quickest exact matrix product, its peak speed, its memory."""

from __future__ import annotations

import math
import sys
import time
from contextlib import ContextDecorator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONEDNN: Any = getattr(torch.backends.mkldnn, "matmul", None)
"""The switch of torch's that says how oneDNN multiplies; torch has it since version 2.9."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, by `fast_matmul` where that applies: forward, and in the backward pass too."""
    if torch.compiler.is_compiling():  # first, since the compiler cannot look into what follows
        return F.linear(x, weight, bias)
    plain = not _onednn_is_exact_and_faster() or x.dtype != torch.float32 or x.device.type != "cpu"
    if plain or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        with fast_matmul():
            return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


class fast_matmul(ContextDecorator):  # noqa: N801 - a context manager, used as a statement
    """Inside, float32 products on an AMD processor with AVX-512 run in oneDNN, at twice the speed of MKL.

    MKL, which torch asks by default, does not use the whole of an AMD processor. Torch's name for the switch
    speaks of bfloat16, but oneDNN rounds to it only where the processor has AMX; there the switch stays off.
    It is thrown around products alone: it would slow down attention, which makes many small ones.
    """

    def __enter__(self) -> None:
        if _onednn_is_exact_and_faster():
            self.before = ONEDNN.fp32_precision
            ONEDNN.fp32_precision = "bf16"

    def __exit__(self, *_: object) -> None:
        if _onednn_is_exact_and_faster():
            ONEDNN.fp32_precision = self.before


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        with fast_matmul():
            return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        d = grads[0].reshape(-1, weight.shape[0])
        with fast_matmul():
            d_x = (d @ weight).view(x.shape) if needs_x else None
            d_weight = d.T @ x.reshape(-1, weight.shape[1]) if needs_weight else None
        return d_x, d_weight, d.sum(0) if needs_bias else None


def allocate_for_reading(model: nn.Module, device: torch.device) -> None:
    """Give a model on the meta device its memory; on a CPU with each matrix laid out by its inputs.

    Generation multiplies one position at a time and waits for memory: this way round, a processor streams the
    weights up to 1.8 times as fast. The shapes are the same.
    """
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            turned = p.ndim == 2 and device.type == "cpu"
            memory = torch.empty(p.shape[::-1] if turned else p.shape, device=device)
            setattr(module, name, nn.Parameter(memory.T if turned else memory))


def lay_out_for_training(model: nn.Module) -> None:
    """Lay every parameter out by its outputs, as PyTorch's gradients, optimizers and shards are."""
    for p in model.parameters():
        p.data = p.data.contiguous()


@cache
def _onednn_is_exact_and_faster() -> bool:
    """Known by the processor's name and not by a clock: the same machine has to give the same bits every time."""
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    if "AuthenticAMD" not in processor or "avx512f" not in processor or "amx" in processor:
        return False
    return ONEDNN is not None and torch.backends.mkldnn.is_available()


@fast_matmul()
def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product, the best of a few."""
    n = 8192 if device.type == "cuda" else 512
    a, best = torch.ones(n, n, device=device, dtype=dtype), math.inf
    for _ in range(5):
        before = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - before)
    return 2 * n**3 / best


def peak_memory(device: torch.device) -> int:
    """Most bytes that the process has held so far: on the GPU where it uses one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would begin with the peak of the process that started this one
        return next(int(line.split()[1]) * 1024 for line in status.open() if line.startswith("VmHWM"))
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device() -> torch.device:
    """The first CUDA GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
