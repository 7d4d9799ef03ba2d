"""Batches of token ids, and the padding that makes one from sequences of unequal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORE = -100
"""Target of a position that the loss skips."""


class Batch(NamedTuple):
    """The tensors that one forward pass reads.

    Attributes:
        inputs: (B, T) token ids.
        targets: (B, T) ids to predict, `IGNORE` at positions that do not count; or (B,) labels.
        lengths: (B,) number of real tokens in each row, where rows are padded.
        positions: (B, T) position of each token, as in `GPT.hidden`.
        documents: (B, T) document number of each token, as in `GPT.hidden`.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    positions: Tensor | None = None
    documents: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Copy every tensor to a device, without waiting where memory is pinned."""
        return Batch(*(None if t is None else t.to(device, non_blocking=True) for t in self))  # type: ignore[arg-type]


Ids = Sequence[int] | NDArray[np.integer[Any]]
"""Token ids of one sequence."""


def pad(sequences: Sequence[Ids], targets: Sequence[int | Ids]) -> Batch:
    """Join sequences of unequal length into one batch, padded on the right.

    Padding is token 0, and its target is `IGNORE`.

    Args:
        sequences: token ids of each example.
        targets: a label for each example, or a target for each of its tokens.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    inputs = fill_rows(sequences, 0, int(lengths.max()))  # (B, T)
    if isinstance(targets[0], int | np.integer):
        return Batch(inputs, torch.tensor(targets), lengths)
    return Batch(inputs, fill_rows(targets, IGNORE, int(lengths.max())), lengths)  # type: ignore[arg-type]


def fill_rows(rows: Sequence[Ids], fill: int, width: int) -> Tensor:
    """Write rows of unequal length into a tensor (len(rows), width), padded on the right with `fill`."""
    filled = torch.full((len(rows), width), fill, dtype=torch.long)
    for row, values in zip(filled, rows, strict=True):
        row[: len(values)] = torch.as_tensor(values)
    return filled


def mean_of_rows(values: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean (B, C) over the real positions of each row of `values` (B, T, C), padded on the right."""
    real = torch.arange(values.shape[1], device=values.device) < lengths[:, None]  # (B, T)
    return torch.where(real[:, :, None], values, 0).sum(1) / lengths[:, None]
