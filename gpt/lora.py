"""LoRA: low-rank changes of frozen linear layers (Hu et al. 2021), and the choice of what to train."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt.machine import linear
from gpt.model import GPT

TARGETS = ("attention.qkv", "attention.output", "mlp.input", "mlp.output")
"""Endings of the names of all linear layers inside blocks."""


class LoRALinear(nn.Linear):
    """A frozen linear layer plus the trainable change `scale * up @ down`, which starts at zero.

    It shares the weight of the layer that it replaces and takes its name. `down` is (rank, in), `up` is (out, rank).
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float):
        """Wrap a linear layer.

        Args:
            base: the layer, which is frozen.
            rank: rank of the change.
            alpha: the change is multiplied by alpha / rank.
            dropout: share of the change's inputs dropped while training.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.scale, self.dropout = alpha / rank, dropout
        self.down = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the changed layer: (..., in) to (..., out)."""
        low = linear(F.dropout(x, self.dropout, self.training), self.down)
        return linear(x, self.weight, self.bias) + self.scale * linear(low, self.up)

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """Return a new weight (out, in) that includes the change."""
        return torch.addmm(self.weight, self.up, self.down, alpha=self.scale)


def add_lora(model: nn.Module, rank: int, alpha: float, targets: Sequence[str] = TARGETS, dropout: float = 0.0) -> int:
    """Freeze a model, add LoRA to some of its linear layers, and return how many were changed.

    Args:
        model: changed in place.
        rank: rank of each change.
        alpha: each change is multiplied by alpha / rank.
        targets: a layer is changed when its name ends in one of these.
        dropout: share of each change's inputs dropped while training.

    Raises:
        ValueError: no layer has such a name, or the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"LoRA's rank is {rank}: it has to be at least 1")
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not isinstance(module, LoRALinear) and name.endswith(tuple(targets))
    ]
    if not found:
        raise ValueError(f"no linear layer's name ends in {', '.join(targets)}: LoRA has nothing to change")
    model.requires_grad_(False)
    for name, module in found:
        _replace(model, name, LoRALinear(module, rank, alpha, dropout))
    return len(found)


def merge_lora(model: nn.Module) -> None:
    """Fold every LoRA change into its layer, in place. All parameters are trainable afterwards."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            linear = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
            linear.weight, linear.bias = nn.Parameter(module.merged_weight()), module.bias
            _replace(model, name, linear)
    model.requires_grad_(True)


def merged_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state dict with every LoRA change folded in. The model does not change."""
    weights = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            weights[f"{name}.weight"] = module.merged_weight()
            del weights[f"{name}.down"], weights[f"{name}.up"]
    return weights


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule with this dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def choose_trainable(model: GPT, trainable: str, rank: int = 8, alpha: float = 16.0, embeddings: bool = False) -> None:
    """Freeze all parameters except the chosen ones.

    Args:
        model: changed in place.
        trainable: `all`, `last:N` for the last N blocks and the last norm, or `lora` for LoRA in all blocks.
        rank: rank of LoRA's changes.
        alpha: LoRA's changes are multiplied by alpha / rank.
        embeddings: also train the token embedding and the head, which new token ids need.

    Raises:
        ValueError: the choice is unknown, or names more blocks than there are.
    """
    blocks = model.blocks
    kind, _, number = trainable.partition(":")
    if trainable == "lora":
        add_lora(model, rank, alpha)
        parts: list[nn.Module | None] = []
    elif trainable == "all":
        parts = [model]
    elif kind == "last" and number.isdecimal() and 1 <= int(number) <= len(blocks):
        parts = [model.norm, *blocks[-int(number) :]]
        model.requires_grad_(False)
    else:
        raise ValueError(f"cannot train {trainable!r}: choose all, lora, or last:N with N from 1 to {len(blocks)}")
    for part in [*parts, *([model.tokens, model.head] if embeddings else [])]:
        if part is not None:
            part.requires_grad_(True)
