"""A text classifier, and the rule that turns its probabilities into labels."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt.batch import mean_of_rows
from gpt.lora import choose_trainable
from gpt.model import GPT, Linear


class Classifier(nn.Module):
    """A GPT with a linear layer over the last real token's hidden state, or the mean of all real ones.

    Rows are padded on the right. Attention looks back only, so padding never changes a result.
    """

    def __init__(self, gpt: GPT, n_classes: int, pooling: str = "last"):
        """Add a classification head to a GPT.

        Args:
            gpt: the GPT, which is not copied. Its own head no longer learns.
            n_classes: number of classes.
            pooling: `last` reads the last real token, `mean` averages all real tokens.

        Raises:
            ValueError: the pooling is unknown.
        """
        super().__init__()
        if pooling not in ("last", "mean"):
            raise ValueError(f"pooling is {pooling!r}: choose last or mean")
        self.gpt, self.n_classes, self.pooling = gpt, n_classes, pooling
        self.head = Linear(gpt.config.width, n_classes, bias=True)
        if gpt.head is not None:  # the classifier does not read it, so it gets no gradient
            gpt.head.requires_grad_(False)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the logits (B, classes) of each text.

        Args:
            ids: (B, T) token ids, padded on the right.
            lengths: (B,) number of real tokens in each row, by default T.
        """
        hidden = self.gpt.hidden(ids)  # (B, T, C)
        if lengths is None:
            lengths = torch.full((len(ids),), ids.shape[1], device=ids.device)
        if self.pooling == "last":
            pooled = hidden[torch.arange(len(ids), device=ids.device), lengths - 1]  # (B, C)
        else:
            pooled = mean_of_rows(hidden, lengths)  # (B, C)
        return self.head(pooled)


@dataclass(frozen=True)
class Decision:
    """The rule that turns a classifier's probabilities into a label.

    Attributes:
        labels: name of each class.
        positive: label that precision, recall and F1 refer to.
        threshold: lowest probability at which a text is `positive`, for two classes. None takes the likelier label.

    Raises:
        ValueError: `positive` is no label, or there is a threshold for other than two classes.
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
        """Return the class (N,) of each row of probabilities (N, classes)."""
        if self.threshold is None:
            return probabilities.argmax(axis=1)
        positive = self.labels.index(self.positive)
        return np.where(probabilities[:, positive] >= self.threshold, positive, 1 - positive)


def freeze(model: Classifier, trainable: str, rank: int = 8, alpha: float = 16.0) -> None:
    """Freeze all parameters except the classification head and the chosen part of the GPT.

    Args:
        model: the classifier, changed in place.
        trainable: `head` for the classification head only, or a choice of `choose_trainable`.
        rank: rank of LoRA's changes.
        alpha: LoRA's changes are multiplied by alpha / rank.

    Raises:
        ValueError: the choice is unknown, or names more blocks than there are.
    """
    if trainable == "head":
        model.gpt.requires_grad_(False)
    else:
        choose_trainable(model.gpt, trainable, rank, alpha)
    model.head.requires_grad_(True)
    if model.gpt.head is not None:
        model.gpt.head.requires_grad_(False)
