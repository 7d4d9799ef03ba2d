"""What training minimises: cross-entropy as a sum and the number of things summed, so that parts add up exactly.

The head and its cross-entropy dominate small models: 50,257 logits a token. So they are computed only where a
target counts, a few rows at a time, and with their gradients in the same pass: the logits are never held.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt.batch import IGNORE
from gpt.machine import fast_matmul

if TYPE_CHECKING:
    from gpt.batch import Batch
    from gpt.classifier import Classifier
    from gpt.model import GPT

CHUNK = 1 << 22
"""Logits computed at a time: 16 MB in float32, which stay in a CPU's cache. A GPU wants more work at once."""


def next_token_loss(model: "GPT", batch: "Batch") -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of the batch's targets, in nats, and how many targets count.

    The sum carries the gradient. A batch in which nothing counts gives 0 and 0.
    """
    hidden = model.hidden(batch.inputs, positions=batch.positions, documents=batch.documents)  # (B, T, C)
    return linear_cross_entropy(hidden.flatten(0, 1), model.head_weight, batch.targets.flatten())


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of -log softmax(hidden @ weight.T)[target] over the rows whose target counts, and their number.

    hidden: (N, C), weight: (V, C), targets: (N,) in 0..V-1 or IGNORE.
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
    classifier: "Classifier", batch: "Batch", class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropies of the labels (B,), in nats, and the sum of the weights."""
    logits = classifier(batch.inputs, batch.lengths).float()  # (B, classes)
    loss = F.cross_entropy(logits, batch.targets, class_weights, reduction="sum", ignore_index=IGNORE)
    labels = batch.targets[batch.targets != IGNORE]
    return loss, torch.tensor(len(labels)) if class_weights is None else class_weights[labels].sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradients are computed with the loss, while a chunk's logits are at hand."""

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
    """The loss; with buffers given, the gradients with respect to hidden and weight are left in them.

    Products are of hidden's type. What they add to the weight's gradient is added up in the weight's own, since in
    bfloat16 a sum soon no longer grows by what is small beside it.
    """
    N, V = len(hidden), len(weight)
    total = torch.zeros((), device=hidden.device)
    weight = weight.to(hidden.dtype)
    if hidden.is_cuda and V % 64:
        weight = F.pad(weight, (0, 0, 0, -V % 64))  # tensor cores want aligned rows
    size = max(1, CHUNK * (16 if hidden.is_cuda else 1) // V)
    memory = hidden.new_empty(min(size, N), len(weight))  # for every chunk's logits: fresh memory has to be cleared
    for at in range(0, N, size):
        rows, target = hidden[at : at + size], targets[at : at + size, None]
        logits = torch.mm(rows, weight.T, out=memory[: len(rows)])[:, :V].float()  # (n, V)
        log_probabilities = logits.log_softmax(1)
        total -= log_probabilities.gather(1, target).sum()
        if d_hidden is None and d_weight is None:
            continue
        d_logits = log_probabilities.exp_()  # the probabilities, minus one at the target
        d_logits.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=d_logits.dtype))
        d_logits = d_logits.to(rows.dtype)
        if d_hidden is not None:
            torch.mm(d_logits, weight[:V], out=d_hidden[at : at + size])
        if d_weight is not None and d_weight.dtype == rows.dtype:
            d_weight.addmm_(d_logits.T, rows)
        elif d_weight is not None:
            d_weight += d_logits.T @ rows
    return total
