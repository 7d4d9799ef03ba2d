"""Losses: cross-entropies as a sum and a count, so that micro-batches add up exactly.

The head and its cross-entropy dominate the cost of small models: there are 50,257 logits a token. So the loss skips
positions without a target, and computes a few rows at a time together with their gradients. The logits of a whole
batch are never in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt.batch import IGNORE, Batch
from gpt.machine import fast_matmul

if TYPE_CHECKING:
    from gpt.classifier import Classifier
    from gpt.model import GPT

CHUNK = 1 << 22
"""Number of logits computed at once on a CPU. They take 16 MB in float32, which fit its cache.

A GPU computes 16 times as many.
"""


def next_token_loss(model: GPT, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the sum of the cross-entropies of a batch's targets, in nats, and the number of targets.

    Targets equal to `IGNORE` do not count. The sum carries the gradient. A batch without targets gives 0 and 0.
    """
    hidden = model.hidden(batch.inputs, positions=batch.positions, documents=batch.documents)  # (B, T, C)
    return linear_cross_entropy(hidden.flatten(0, 1), model.head_weight, batch.targets.flatten())


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of -log softmax(hidden @ weight.T)[target], and the number of rows with a target.

    Args:
        hidden: (N, C) hidden states.
        weight: (V, C) weight of the head.
        targets: (N,) ids in 0..V-1, or `IGNORE`.
    """
    counts = targets != IGNORE
    n = counts.sum()
    if n < len(targets):
        rows = counts.nonzero().squeeze(1)
        hidden, targets = hidden.index_select(0, rows), targets[rows]
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(hidden, weight, targets), n
    return _sum_over_chunks(hidden, weight, targets, None, None), n


def classification_loss(
    classifier: Classifier, batch: Batch, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of the labels' cross-entropies, in nats, and the sum of the weights.

    Args:
        classifier: gives the logits.
        batch: its targets are (B,) labels.
        class_weights: (classes,) weight of each class, by default 1.
    """
    logits = classifier(batch.inputs, batch.lengths).float()  # (B, classes)
    loss = F.cross_entropy(logits, batch.targets, class_weights, reduction="sum", ignore_index=IGNORE)
    labels = batch.targets[batch.targets != IGNORE]
    return loss, torch.tensor(len(labels)) if class_weights is None else class_weights[labels].sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """`linear_cross_entropy` with gradients computed in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        needs_hidden, needs_weight, _ = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight) if needs_weight else None
        ctx.gradients = d_hidden, d_weight
        return _sum_over_chunks(hidden, weight, targets, d_hidden, d_weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if d is None else d.mul_(grads[0]) for d in ctx.gradients), None


@fast_matmul()
def _sum_over_chunks(
    hidden: Tensor, weight: Tensor, targets: Tensor, d_hidden: Tensor | None, d_weight: Tensor | None
) -> Tensor:
    """Return the loss, and write the gradients of hidden and weight into the given buffers.

    Matrix products have the type of `hidden`. The weight's gradient is summed in the weight's own type, because a sum
    in bfloat16 soon loses small addends.
    """
    N, V = len(hidden), len(weight)
    total = torch.zeros((), device=hidden.device)
    weight = weight.to(hidden.dtype)
    if hidden.is_cuda and V % 64:
        weight = F.pad(weight, (0, 0, 0, -V % 64))  # tensor cores need aligned rows
    size = max(1, CHUNK * (16 if hidden.is_cuda else 1) // V)
    memory = hidden.new_empty(min(size, N), len(weight))  # reused by all chunks, since the system clears new memory
    for at in range(0, N, size):
        rows, target = hidden[at : at + size], targets[at : at + size, None]
        logits = torch.mm(rows, weight.T, out=memory[: len(rows)])[:, :V].float()  # (n, V)
        log_probabilities = logits.log_softmax(1)
        total -= log_probabilities.gather(1, target).sum()
        if d_hidden is None and d_weight is None:
            continue
        d_logits = log_probabilities.exp_()  # softmax minus one-hot target, (n, V)
        d_logits.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=d_logits.dtype))
        d_logits = d_logits.to(rows.dtype)
        if d_hidden is not None:
            torch.mm(d_logits, weight[:V], out=d_hidden[at : at + size])
        if d_weight is not None and d_weight.dtype == rows.dtype:
            d_weight.addmm_(d_logits.T, rows)
        elif d_weight is not None:
            d_weight += d_logits.T @ rows
    return total
