"""A GPT that reads a text and names its class."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt.lora import choose_trainable
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


@dataclass(frozen=True)
class Decision:
    """How a classifier's probabilities become a label.

    labels: the name of each class.
    positive: the label that precision, recall and F1 are about.
    threshold: of two classes, the probability from which on a text is `positive`; without one the likelier label wins.
    """

    labels: tuple[str, ...]
    positive: str
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.positive not in self.labels:
            raise ValueError(f"positive is {self.positive!r}: choose one of {', '.join(self.labels)}")
        if self.threshold is not None and len(self.labels) != 2:
            raise ValueError(f"a threshold decides between two classes, not {len(self.labels)}")

    def classes(self, probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
        """The class of each row (N,) of probabilities (N, classes)."""
        if self.threshold is None:
            return probabilities.argmax(axis=1)
        positive = self.labels.index(self.positive)
        return np.where(probabilities[:, positive] >= self.threshold, positive, 1 - positive)


def freeze(model: Classifier, what: str, rank: int = 8, alpha: float = 16.0) -> None:
    """Freeze all parameters but the classifier's head and what `choose_trainable` makes of the GPT; `head`: none of it.

    Raises ValueError for anything that it does not know, and for more blocks than there are.
    """
    if what == "head":
        model.gpt.requires_grad_(False)
    else:
        choose_trainable(model.gpt, what, rank, alpha)
    model.head.requires_grad_(True)
    if model.gpt.head is not None:
        model.gpt.head.requires_grad_(False)
