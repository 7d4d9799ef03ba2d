"""Optimizers, and the learning rate as a pure function of the step."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gpt import parallel
from gpt.config import Config
from gpt.machine import fast_matmul


class OptimizerConfig(Config):
    """Settings of the optimizers and the learning rate."""

    steps: int = Field(1000, gt=0)
    """Optimizer steps in the whole run."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer of the matrices inside the blocks."""
    learning_rate: float = Field(6e-4, gt=0)
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = Field(0.01, gt=0)
    """Peak learning rate of Muon."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the mean gradient."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """AdamW's decay of the mean squared gradient."""
    epsilon: float = Field(1e-8, gt=0)
    """AdamW's term that keeps its divisor above zero."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Muon's momentum."""
    weight_decay: float = Field(0.1, ge=0)
    """Decay of matrices, times the learning rate."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    warmup: int = Field(0, ge=0)
    """Steps in which the learning rate rises to its peak."""
    decay_share: float = Field(0.2, gt=0, le=1)
    """Last share of the steps, in which `wsd` decays."""
    final_share: float = Field(0.1, ge=0, le=1)
    """Learning rate of the last step, as a share of the peak."""


def learning_rate(step: int, config: OptimizerConfig) -> float:
    """Return AdamW's learning rate at a step, counted from 0.

    Muon's has the same share of its own peak. The first rate is above zero, and the last step of the warm-up has the
    peak. The last step of the run has exactly the final share of the peak, except with a constant schedule.
    """
    return config.learning_rate * schedule_share(step, config)


def schedule_share(step: int, config: OptimizerConfig) -> float:
    """Return the learning rate at a step as a share of its peak."""
    last = max(config.steps - 1, 1)
    if step < config.warmup:
        return (step + 1) / config.warmup
    return SCHEDULES[config.schedule](min(step, last), last, config)


def _cosine(step: int, last: int, config: OptimizerConfig) -> float:
    progress = (step - config.warmup) / max(last - config.warmup, 1)
    return config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * progress)) / 2


def _warmup_stable_decay(step: int, last: int, config: OptimizerConfig) -> float:
    """Return 1, then a linear decay to the final share (MiniCPM, Hu et al. 2024)."""
    left = (last - step) / max(config.decay_share * last, 1)
    return config.final_share + (1 - config.final_share) * min(left, 1.0)


SCHEDULES: dict[str, Callable[[int, int, OptimizerConfig], float]] = {
    "cosine": _cosine,
    "wsd": _warmup_stable_decay,
    "constant": lambda step, last, config: 1.0,
}
"""Share of the peak after the warm-up, as a function of step, last step and config."""


def make_optimizers(model: nn.Module, config: OptimizerConfig) -> list[Optimizer]:
    """Make the optimizers of all parameters that require gradients.

    Weight decay applies to matrices, not to norms, biases and embeddings. Muon, if chosen, moves the matrices inside
    blocks, and AdamW all other parameters. The `peak` of a group is its highest learning rate.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed, plain, matrices = [], [], []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if p.ndim < 2 or id(p) in embeddings:
            plain.append(p)
        elif config.optimizer == "muon" and ".blocks." in f".{name}":
            matrices.append(p)
        else:
            decayed.append(p)
    groups = [
        {"params": params, "peak": config.learning_rate, "weight_decay": weight_decay}
        for params, weight_decay in ((decayed, config.weight_decay), (plain, 0.0))
        if params
    ]
    optimizers: list[Optimizer] = []
    if groups:
        optimizers.append(AdamW(groups, config.beta1, config.beta2, config.epsilon))
    if matrices:
        optimizers.append(Muon(matrices, config.muon_learning_rate, config.momentum, config.weight_decay))
    if not optimizers:
        raise ValueError("no parameter of the model wants a gradient: unfreeze some before training")
    return optimizers


def set_learning_rate(optimizers: Iterable[Optimizer], step: int, config: OptimizerConfig) -> None:
    """Set the learning rate of every group for this step."""
    share = schedule_share(step, config)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share


class Optimizer:
    """Base class of optimizers: groups of parameters with settings, and a state for each parameter.

    PyTorch's own base class imports its compiler, which costs 30 MB and most of a second before the first step.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """Start with empty states.

        Args:
            groups: each has `params`, their highest learning rate `peak`, and `weight_decay`. The current learning
                rate is added as `lr`.
        """
        self.param_groups = [{"lr": group["peak"], **group} for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Free all gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), one fused PyTorch kernel per group."""

    def __init__(self, groups: Iterable[dict[str, Any]], beta1: float, beta2: float, epsilon: float) -> None:
        super().__init__(groups)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] = {
                        "step": torch.zeros((), dtype=torch.float32, device=p.device),
                        "exp_avg": torch.zeros_like(p),
                        "exp_avg_sq": torch.zeros_like(p),
                    }
            states = [self.state[p] for p in params]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                params,
                [p.grad for p in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                beta1=self.beta1,
                beta2=self.beta2,
                weight_decay=group["weight_decay"],
                eps=self.epsilon,
                amsgrad=False,
                maximize=False,
            )


ITERATIONS = 4
"""Newton-Schulz iterations in `orthogonalize`."""


class Muon(Optimizer):
    """Momentum with an orthogonalized update, for matrices (Jordan et al. 2024).

    Matrices of equal shape are orthogonalized as one batch. The stacked projection to queries, keys and values, with
    three times as many rows as columns, counts as three matrices.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__([{"params": list(params), "peak": lr, "momentum": momentum, "weight_decay": weight_decay}])

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for params in shapes.values():
                self._step_together(params, group)

    def _step_together(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of equal shape (rows, columns)."""
        rows, columns = params[0].shape
        whole = []
        for p in params:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            assert p.grad is not None
            state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            ahead = torch.lerp(p.grad, state["momentum"], group["momentum"])  # Nesterov momentum
            whole.append(parallel.gather(ahead))
        update = torch.stack(whole)  # (N, rows, columns)
        if rows == 3 * columns:
            update = update.view(-1, columns, columns)
        scale = max(1.0, update.shape[1] / update.shape[2]) ** 0.5
        update = orthogonalize(update).reshape(-1, rows, columns)
        updates = [parallel.shard_like(u, p) for u, p in zip(update, params, strict=True)]
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, updates, alpha=-group["lr"] * scale)


@fast_matmul()
def orthogonalize(x: Tensor) -> Tensor:
    """Return roughly the nearest (semi-)orthogonal matrices to x (N, rows, columns).

    Singular values end up in about 0.7..1.2. The method is the quintic Newton-Schulz iteration with the coefficients
    of Jordan et al. (2024). Each iteration multiplies x by a polynomial in x x^T, so the iterations run on that small
    square matrix, and x itself is multiplied once.
    """
    if transposed := x.shape[1] > x.shape[2]:
        x = x.mT
    gram = x @ x.mT  # (N, r, r), r the shorter side
    norm = gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-20)[:, None, None]  # squared Frobenius norm
    gram = gram / norm
    factors: list[Tensor] = []
    for i in range(ITERATIONS):
        if i > 0:
            gram = factors[-1] @ (factors[-1] @ gram)
        factor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        factor.diagonal(dim1=1, dim2=2).add_(3.4445)
        factors.append(factor)
    x = functools.reduce(torch.matmul, reversed(factors)) @ x / norm.sqrt()
    return x.mT if transposed else x


def optimizer_tensors(model: nn.Module, optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    """Return the state of the optimizers, as a mapping from `parameter name/quantity` to tensor."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {
        f"{names[p]}/{key}": value
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizers(model: nn.Module, optimizers: Iterable[Optimizer], tensors: dict[str, Tensor]) -> None:
    """Restore the state that `optimizer_tensors` returned."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for optimizer in optimizers:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            prefix = names[p] + "/"
            optimizer.state[p] = {
                key.removeprefix(prefix): parallel.shard_like(value.to(p.device), p).clone()
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
