"""Batches of token sequences of unequal length, padded or packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from torch import Tensor

from gpt.batch import IGNORE, Batch, Ids, fill_rows, pad
from pipelines.tokens.packing import best_fit


class PaddedBatches:
    """Batches of token sequences of unequal length, as a pure function of the position in training.

    Each epoch visits every sequence once, but for a few that fill no batch, in an order drawn from (seed, epoch).
    Sequences of like length are put together, so that little is padded; which come together changes with the epoch.
    """

    BUCKET = 16  # batches whose sequences are sorted by length among themselves

    def __init__(
        self,
        sequences: Sequence[Ids],
        targets: Sequence[int | Ids],
        batch_size: int,
        accumulation: int,
        seed: int,
        draw: Callable[[np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        """
        Args:
            sequences: token ids of each example.
            targets: a label for each example, or for each of its tokens (`IGNORE` where nothing is to be learnt).
            draw: an epoch's examples, as indices; by default every one once.
        """
        self.sequences, self.targets = sequences, targets
        self.batch_size, self.accumulation, self.seed = min(batch_size, len(sequences)), accumulation, seed
        self.draw = draw or (lambda rng: rng.permutation(len(sequences)))
        self.batches_per_epoch = max(1, len(sequences) // self.batch_size)
        self._epoch = lru_cache(maxsize=2)(self._order)

    def __call__(self, step: int, micro: int) -> Batch:
        epoch, at = divmod(step * self.accumulation + micro, self.batches_per_epoch)
        return self.batch(self._epoch(epoch)[at])

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The examples of these indices as one batch, padded on the right."""
        return pad([self.sequences[i] for i in indices], [self.targets[i] for i in indices])

    def in_order(self) -> list[Batch]:
        """Every example once, the shortest first, for evaluation."""
        order = np.argsort([len(sequence) for sequence in self.sequences], kind="stable")
        return [self.batch(order[at : at + self.batch_size]) for at in range(0, len(order), self.batch_size)]

    def _order(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, epoch))
        drawn = self.draw(rng)[: self.batches_per_epoch * self.batch_size]
        span = self.BUCKET * self.batch_size
        lengths = np.array([len(sequence) for sequence in self.sequences])
        batches = []
        for at in range(0, len(drawn), span):
            bucket = drawn[at : at + span]
            bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
            batches += [bucket[i : i + self.batch_size] for i in range(0, len(bucket), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]


class PackedBatches:
    """The same of sequences that share windows, each its own document with positions from zero, to pad even less.

    A window holds as many sequences as best fit into a context. Which share one is settled once; each epoch visits
    every window once, but for a few that fill no batch, in an order drawn from (seed, epoch).
    """

    def __init__(
        self,
        sequences: Sequence[Ids],
        targets: Sequence[Ids],
        batch_size: int,
        accumulation: int,
        seed: int,
        context: int,
    ) -> None:
        self.sequences, self.targets, self.context = sequences, targets, context
        self.windows = best_fit([len(sequence) for sequence in sequences], context)
        self.batch_size, self.accumulation, self.seed = min(batch_size, len(self.windows)), accumulation, seed
        self.batches_per_epoch = len(self.windows) // self.batch_size
        self._order = lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng((seed, epoch)).permutation(len(self.windows))
        )

    def __call__(self, step: int, micro: int) -> Batch:
        epoch, at = divmod(step * self.accumulation + micro, self.batches_per_epoch)
        return self.batch(self._order(epoch)[at * self.batch_size : (at + 1) * self.batch_size])

    def batch(self, windows: Sequence[int] | np.ndarray) -> Batch:
        """The windows of these numbers as one batch."""
        rows = [self.windows[i] for i in windows]

        def joined(part: Callable[[int], Ids], fill: int) -> Tensor:
            return fill_rows([[value for i in row for value in part(i)] for row in rows], fill, self.context)

        return Batch(
            joined(lambda i: self.sequences[i], 0),
            joined(lambda i: self.targets[i], IGNORE),
            positions=joined(lambda i: range(len(self.sequences[i])), 0),
            documents=joined(lambda i: [i] * len(self.sequences[i]), -1),
        )
