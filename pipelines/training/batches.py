"""Batches of token sequences of unequal length, padded or packed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from gpt.batch import IGNORE, Batch, Ids, pad
from pipelines.tokens.packing import best_fit

Indices = Sequence[int] | NDArray[np.int64]


@dataclass(eq=False)
class EpochBatches(ABC):
    """Batches of items as a pure function of the position in training.

    Each epoch visits every item once, in an order drawn from (seed, epoch). The last items are left out if they do not
    fill a batch.

    Attributes:
        sequences: token ids of each example.
        targets: a label for each example, or for each of its tokens (`IGNORE` where nothing is learnt).
        batch_size: items in a batch.
        accumulation: batches in a step.
        seed: seed of the order.
    """

    sequences: Sequence[Ids]
    targets: Sequence[Any]
    batch_size: int
    accumulation: int
    seed: int

    def __post_init__(self) -> None:
        n_items = len(self.items)
        self.batch_size = max(1, min(self.batch_size, n_items))
        self.batches_per_epoch = n_items // self.batch_size
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def __call__(self, step: int, micro: int) -> Batch:
        """Return the micro-batch of (step, micro-batch number)."""
        epoch, at = divmod(step * self.accumulation + micro, self.batches_per_epoch)
        return self.batch(self._epoch(epoch)[at])

    @property
    def items(self) -> Sequence[Any]:
        """The items that batches are made of."""
        return self.sequences

    @abstractmethod
    def batch(self, indices: Indices) -> Batch:
        """Return the items of these indices as one batch."""

    @abstractmethod
    def _draw_epoch(self, epoch: int) -> Sequence[Indices]:
        """Return the indices of each batch of an epoch."""


@dataclass(eq=False)
class PaddedBatches(EpochBatches):
    """Batches of sequences, padded on the right.

    Sequences of similar length share a batch, so there is little padding. Which ones share it changes with the epoch.

    Attributes:
        draw: draws the indices of an epoch's examples, by default every one once.
    """

    draw: Callable[[np.random.Generator], NDArray[np.int64]] | None = None

    BUCKET: ClassVar = 16  # batches whose sequences are sorted by length together

    def batch(self, indices: Indices) -> Batch:
        """Return the examples of these indices as one batch, padded on the right."""
        return pad([self.sequences[i] for i in indices], [self.targets[i] for i in indices])

    def in_order(self) -> list[Batch]:
        """Return batches of every example once, the shortest first, for evaluation."""
        order = np.argsort([len(sequence) for sequence in self.sequences], kind="stable")
        return [self.batch(order[at : at + self.batch_size]) for at in range(0, len(order), self.batch_size)]

    def _draw_epoch(self, epoch: int) -> Sequence[Indices]:
        rng = np.random.default_rng((self.seed, epoch))
        drawn = self.draw(rng) if self.draw else rng.permutation(len(self.sequences))
        drawn = drawn[: self.batches_per_epoch * self.batch_size]
        span = self.BUCKET * self.batch_size
        lengths = np.array([len(sequence) for sequence in self.sequences])
        batches = []
        for at in range(0, len(drawn), span):
            bucket = drawn[at : at + span]
            bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
            batches += [bucket[i : i + self.batch_size] for i in range(0, len(bucket), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]


@dataclass(eq=False)
class PackedBatches(EpochBatches):
    """Batches of windows that several sequences share, each as its own document with positions from zero.

    A window holds the sequences that best fit into a context, the same ones in every epoch.
    """

    context: int

    @cached_property
    def items(self) -> Sequence[Sequence[int]]:
        """The windows, each with the numbers of its sequences."""
        return best_fit([len(sequence) for sequence in self.sequences], self.context)

    def batch(self, indices: Indices) -> Batch:
        """Return the windows of these indices as one batch."""
        rows = [[(self.sequences[i], self.targets[i], i) for i in self.items[window]] for window in indices]
        return pack(rows, self.context, fill=0)

    def _draw_epoch(self, epoch: int) -> Sequence[Indices]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.items))
        return order[: self.batches_per_epoch * self.batch_size].reshape(-1, self.batch_size)  # type: ignore[return-value]


def pack(rows: Sequence[Iterable[tuple[Ids, Ids, int]]], context: int, fill: int) -> Batch:
    """Join pieces into rows of a batch. Each piece is its own document, with positions from zero.

    The rest of a row is filled up. It belongs to no document, and its targets are `IGNORE`.

    Args:
        rows: the pieces of each row: inputs, targets and document number.
        context: tokens in a row.
        fill: token id of the rest.
    """
    shape = len(rows), context  # (B, T)
    inputs, targets = np.full(shape, fill), np.full(shape, IGNORE)
    positions, documents = np.zeros(shape, np.int64), np.full(shape, -1)
    for row, pieces in enumerate(rows):
        at = 0
        for ids, ids_to_predict, document in pieces:
            here = slice(at, at := at + len(ids))
            inputs[row, here], targets[row, here] = ids, ids_to_predict
            positions[row, here], documents[row, here] = np.arange(len(ids)), document
    made = [torch.from_numpy(array) for array in (inputs, targets, positions, documents)]
    return Batch(made[0], made[1], positions=made[2], documents=made[3])
