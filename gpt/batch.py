"""A batch of token ids, and how sequences of unequal length become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORE = -100
"""The target of a position that nothing is to be learnt from."""


class Batch(NamedTuple):
    """What one forward pass reads.

    inputs: (B, T) token ids.
    targets: (B, T) the ids to be predicted, `IGNORE` where nothing counts; or (B,) labels.
    lengths: (B,) number of real tokens in each row, where rows are padded.
    positions, documents: (B, T) as `GPT.hidden` takes them.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    positions: Tensor | None = None
    documents: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        return Batch(*(None if t is None else t.to(device, non_blocking=True) for t in self))  # type: ignore[arg-type]


Ids = Sequence[int] | NDArray[np.integer[Any]]


def pad(sequences: Sequence[Ids], targets: Sequence[int | Ids]) -> Batch:
    """Sequences side by side, filled up on the right with token 0, whose target is `IGNORE`."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    inputs = fill_rows(sequences, 0, int(lengths.max()))  # (B, T)
    if isinstance(targets[0], int | np.integer):
        return Batch(inputs, torch.tensor(targets), lengths)
    return Batch(inputs, fill_rows(targets, IGNORE, int(lengths.max())), lengths)  # type: ignore[arg-type]


def fill_rows(rows: Sequence[Ids], fill: int, width: int) -> Tensor:
    filled = torch.full((len(rows), width), fill, dtype=torch.long)
    for row, values in zip(filled, rows, strict=True):
        row[: len(values)] = torch.as_tensor(values)
    return filled
