"""The loader: samples become batches for the model.

A batch is a pure function of its position. The order of an epoch is a permutation that is computed for single places.
A resumed run asks for a later position, which takes constant time and memory. Any number of processes see the same
global order. Tokens are copied once, from the memory map into 64-bit integers for the model. Some dozens of batches
are made at a time, and the next dozens on a thread while the model works on these.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gpt.batch import Batch, Ids
from pipelines.errors import InputError
from pipelines.tokens.order import samples_at
from pipelines.tokens.samples import Samples
from pipelines.tokens.shards import Tokens
from pipelines.training.batches import pack

BLOCK = 4 << 20  # bytes of token ids that are read at once


class Loader:
    """A function from (step, micro-batch number) to a batch of samples. Its length is a number of batches."""

    def __init__(
        self,
        samples: Samples,
        tokens: Tokens,
        split: str,
        *,
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        ahead: bool = True,
    ) -> None:
        """Open the samples of a split.

        Args:
            samples: the windows.
            tokens: the dataset that they are windows of.
            split: the split to read.
            batch_size: samples in a micro-batch, over all processes.
            accumulation: micro-batches in a step.
            seed: seed of the order, which is different in every epoch.
            shuffle: false reads the samples in their stored order.
            ahead: false makes one batch at a time, for reads at distant positions.

        Raises:
            InputError: the split has no samples, or the samples are damaged.
        """
        self.batch_size, self.accumulation, self.seed, self.shuffle = batch_size, accumulation, seed, shuffle
        samples.check(tokens)
        groups = samples.batches_of(split)  # record batches, each with the number of its shard
        self._windows = (PackedWindows if samples.packed else StreamWindows)(groups, tokens, samples.context)
        self._first = np.cumsum([0, *(len(batch) for _, batch in groups)])  # window of each group; at the end, of all
        self.n_samples = int(self._first[-1])
        if not self.n_samples:
            raise InputError(f"{samples.dataset} has no {split} samples.")
        self._ahead = ahead
        self._per_block = max(1, BLOCK // (8 * batch_size * (samples.context + 1))) if ahead else 1
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._blocks: dict[int, Future[list[Batch]]] = {}

    def __len__(self) -> int:
        """Return the number of micro-batches in an epoch. The next epoch fills up the last one."""
        return -(-self.n_samples // self.batch_size)

    def __call__(self, step: int, micro: int = 0) -> Batch:
        """Return the micro-batch at a position: inputs and targets (B, T), in pinned memory if there is a GPU."""
        block, number = divmod(step * self.accumulation + micro, self._per_block)
        if not self._ahead:
            return self._make_block(block)[0]
        if block not in self._blocks or block + 1 not in self._blocks:
            wanted = (block, block + 1)
            self._blocks = {b: self._blocks.get(b) or self._thread.submit(self._make_block, b) for b in wanted}
        return self._blocks[block].result()[number]

    def read(self, samples: NDArray[np.int64]) -> Batch:
        """Return samples of the split as one batch, given their numbers in the stored order."""
        groups = np.searchsorted(self._first, samples, side="right") - 1
        return self._windows.batch(groups, samples - self._first[groups])

    def _make_block(self, block: int) -> list[Batch]:
        """Return the micro-batches of a block of positions."""
        count = self._per_block * self.batch_size
        whole = self.read(self._order(np.arange(block * count, (block + 1) * count)))
        if torch.cuda.is_available():
            whole = Batch(*(None if tensor is None else tensor.pin_memory() for tensor in whole))  # type: ignore[arg-type]
        each = [None if tensor is None else tensor.split(self.batch_size) for tensor in whole]
        return [Batch(*(part and part[i] for part in each)) for i in range(self._per_block)]  # type: ignore[arg-type]

    def _order(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return samples_at(positions, self.n_samples, self.seed) if self.shuffle else positions % self.n_samples


class StreamWindows:
    """Windows of `context` tokens, and one more for the last target."""

    def __init__(self, groups: Sequence[tuple[int, pa.RecordBatch]], tokens: Tokens, context: int) -> None:
        self.context, self._known = context, tokens.known
        self._starts = [batch["start"].to_numpy(zero_copy_only=True) for _, batch in groups]
        self._windows = [sliding_window_view(tokens.flat(shard), self.context + 1) for shard, _ in groups]

    def batch(self, groups: NDArray[np.int64], windows: NDArray[np.int64]) -> Batch:
        """Return the inputs and targets (B, T) of windows, given their groups and their numbers in the groups."""
        if len(self._windows) == 1:
            window = self._known(self._windows[0][self._starts[0][windows]]).astype(np.int64)
        else:
            window = np.empty((len(windows), self.context + 1), np.int64)
            for group in np.unique(groups):
                here = groups == group
                window[here] = self._known(self._windows[group][self._starts[group][windows[here]]])
        both = torch.from_numpy(window)  # (B, T + 1)
        return Batch(both[:, :-1], both[:, 1:])


class PackedWindows:
    """Windows of short documents and pieces of long ones, as in `pack`. The end of text fills the rest."""

    def __init__(self, groups: Sequence[tuple[int, pa.RecordBatch]], tokens: Tokens, context: int) -> None:
        self.context, self._end_of_text, self._known = context, tokens.tokenizer.end_of_text, tokens.known
        self._flat = [tokens.flat(shard) for shard, _ in groups]
        self._offsets = [batch["starts"].offsets.to_numpy() for _, batch in groups]
        self._starts = [batch["starts"].values.to_numpy() for _, batch in groups]
        self._lengths = [batch["lengths"].values.to_numpy() for _, batch in groups]

    def batch(self, groups: NDArray[np.int64], windows: NDArray[np.int64]) -> Batch:
        """Return windows as a batch, given their groups and their numbers in the groups."""
        rows = [self._pieces(*place) for place in zip(groups.tolist(), windows.tolist(), strict=True)]
        return pack(rows, self.context, fill=self._end_of_text)

    def _pieces(self, group: int, window: int) -> Iterator[tuple[Ids, Ids, int]]:
        flat, starts, lengths = self._flat[group], self._starts[group], self._lengths[group]
        for number, piece in enumerate(range(*self._offsets[group][window : window + 2])):
            ids = self._known(flat[starts[piece] : starts[piece] + lengths[piece] + 1])
            yield ids[:-1], ids[1:], number
