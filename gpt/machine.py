"""The machine that runs the model: its fastest exact matrix product, its peak speed and its memory."""

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
"""Torch's setting of how oneDNN multiplies matrices, since torch 2.9; None before."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear`, with `fast_matmul` in the forward and the backward pass where it applies."""
    if torch.compiler.is_compiling():  # first, because the compiler cannot trace what follows
        return F.linear(x, weight, bias)
    plain = not _onednn_is_exact_and_faster() or x.dtype != torch.float32 or x.device.type != "cpu"
    if plain or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        with fast_matmul():
            return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


class fast_matmul(ContextDecorator):  # noqa: N801 - a context manager, used as a statement
    """A context in which oneDNN computes float32 products on AMD processors with AVX-512.

    That is twice as fast as MKL, torch's default, which leaves half of an AMD processor idle. The value "bf16" of
    torch's setting permits oneDNN to round to bfloat16, but it only does so on processors with AMX. There this context
    changes nothing. It belongs around single products: it would slow down attention, which makes many small ones.
    """

    def __enter__(self) -> None:
        if _onednn_is_exact_and_faster():
            self.before = ONEDNN.fp32_precision
            ONEDNN.fp32_precision = "bf16"

    def __exit__(self, *_: object) -> None:
        if _onednn_is_exact_and_faster():
            ONEDNN.fp32_precision = self.before


class _Linear(torch.autograd.Function):
    """`F.linear` with `fast_matmul` in both passes."""

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
    """Allocate memory for a model on the meta device, in the layout that generates fastest.

    On a CPU, each matrix is transposed in memory and keeps its shape. Generation multiplies one position at a
    time and is limited by memory, and this layout streams the weights up to 1.8 times as fast.
    """
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            transpose = p.ndim == 2 and device.type == "cpu"
            memory = torch.empty(p.shape[::-1] if transpose else p.shape, device=device)
            setattr(module, name, nn.Parameter(memory.T if transpose else memory))


def lay_out_for_training(model: nn.Module) -> None:
    """Make every parameter contiguous, the layout of PyTorch's gradients, optimizers and shards."""
    for p in model.parameters():
        p.data = p.data.contiguous()


@cache
def _onednn_is_exact_and_faster() -> bool:
    """Return whether oneDNN multiplies float32 without rounding, and faster than MKL, on this processor."""
    # The processor's name decides, not a timing: the same machine has to give the same bits every time.
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    if "AuthenticAMD" not in processor or "avx512f" not in processor or "amx" in processor:
        return False
    return ONEDNN is not None and torch.backends.mkldnn.is_available()


@fast_matmul()
def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the floating-point operations a second of a matrix product, the best of five."""
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
    """Return the peak memory of this process in bytes: allocated on the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # preferred, since getrusage includes the peak of the parent process
        return next(int(line.split()[1]) * 1024 for line in status.open() if line.startswith("VmHWM"))
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device() -> torch.device:
    """Return the first CUDA GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Return the name of that device for people."""
    on_gpu = torch.cuda.is_available()
    return f"CUDA: {torch.cuda.get_device_name()}" if on_gpu else f"CPU, {torch.get_num_threads()} threads"
