"""A GPT that reads a text and names its class."""

import torch
from torch import Tensor, nn

from gpt.model import GPT, Linear


class Classifier(nn.Module):
    """A linear layer over the last real token's hidden state, or over the mean of all real ones.

    Rows are padded on the right. Attention looks back only, so padding never changes a result.
    """

    def __init__(self, gpt: GPT, n_classes: int, pooling: str = "last"):
        super().__init__()
        if pooling not in ("last", "mean"):
            raise ValueError(f"pooling is {pooling!r}: choose last or mean")
        self.gpt, self.n_classes, self.pooling = gpt, n_classes, pooling
        self.head = Linear(gpt.config.width, n_classes, bias=True)
        if gpt.head is not None:  # the language model's own head is not read, so it cannot learn
            gpt.head.requires_grad_(False)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of texts (B, T), whose first `lengths` (B,) tokens are real, by default all."""
        hidden = self.gpt.hidden(ids)  # (B, T, C)
        if lengths is None:
            lengths = torch.full((len(ids),), ids.shape[1], device=ids.device)
        if self.pooling == "last":
            pooled = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]  # (B, C)
        else:
            real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]  # (B, T)
            pooled = torch.where(real[:, :, None], hidden, 0).sum(1) / lengths[:, None]
        return self.head(pooled)


def trainable(model: Classifier, what: str) -> None:
    """Freeze all parameters but some: `all`, `head`, or `last:N` for the head, the last N blocks and the last norm.

    Raises ValueError for anything else, and for more blocks than there are.
    """
    blocks = model.gpt.blocks
    kind, _, number = what.partition(":")
    if what == "all":
        parts: list[nn.Module] = [model]
    elif what == "head":
        parts = [model.head]
    elif kind == "last" and number.isdecimal() and 1 <= int(number) <= len(blocks):
        parts = [model.head, model.gpt.norm, *blocks[-int(number) :]]
    else:
        raise ValueError(f"cannot train {what!r}: choose all, head, or last:N with N from 1 to {len(blocks)}")
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    if model.gpt.head is not None:
        model.gpt.head.requires_grad_(False)
