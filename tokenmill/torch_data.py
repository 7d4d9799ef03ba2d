"""The windows of a split as PyTorch's two kinds of datasets, for trainers other than our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from gpt.batch import IGNORE, Batch
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.tokens.samples import Samples
from pipelines.tokens.shards import Tokens
from pipelines.training.loader import Loader

Format = Literal["pairs", "transformers"]


def formatted(batch: Batch, format: Format) -> tuple[Tensor, ...] | dict[str, Tensor]:
    """Return a batch in a format.

    `pairs` is (inputs, targets), with positions and documents behind them if windows keep documents apart.
    `transformers` is what models of Hugging Face's take. They shift labels themselves, so a label is the token of its
    own place, and the window's last target is left out.
    """
    if format == "pairs":
        return tuple(tensor for tensor in batch if tensor is not None)
    labels = torch.full_like(batch.inputs, IGNORE)
    labels[:, 1:] = batch.targets[:, :-1]
    made = {"input_ids": batch.inputs.contiguous(), "labels": labels}
    return made if batch.positions is None else made | {"position_ids": batch.positions}


class WindowDataset(data.Dataset[Any]):
    """The windows of a split by number, in their stored order. Workers open the files themselves."""

    def __init__(self, samples: Dataset, tokens: Dataset, split: str, format: Format = "pairs") -> None:
        self.samples, self.tokens, self.split, self.format = samples, tokens, split, format
        len(self)  # raises if there are none

    @cached_property
    def _loader(self) -> Loader:
        return Loader(Samples(self.samples), Tokens(self.tokens), self.split, batch_size=1, shuffle=False, ahead=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_loader"}

    def __len__(self) -> int:
        return self._loader.n_samples

    def __getitem__(self, number: int) -> Any:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """Return several windows, which PyTorch's loader asks for at once."""
        wanted, n = np.asarray(numbers, np.int64), len(self)
        if ((wanted < -n) | (wanted >= n)).any():
            raise IndexError(f"{self.split} has {n:,} windows, and {numbers} asks for another")
        return rows_of(formatted(self._loader.read(wanted % n), self.format))


class BatchStream(data.IterableDataset[Any]):
    """The batches of a split, exactly those of our own training, from a position on.

    A pass ends after an epoch, and the next pass continues. `state_dict` holds the position.

    Attributes:
        position: batches that were handed out, or windows if `batch_size` is None.
    """

    def __init__(
        self,
        samples: Dataset,
        tokens: Dataset,
        split: str,
        *,
        batch_size: int | None = 16,
        seed: int = 0,
        shuffle: bool = True,
        format: Format = "pairs",
    ) -> None:
        self.format, self.position, self._batched = format, 0, batch_size is not None
        self._loader = Loader(
            Samples(samples), Tokens(tokens), split, batch_size=batch_size or 1, seed=seed, shuffle=shuffle
        )
        self._order = {"samples": str(samples), "split": split, "batch_size": batch_size}
        self._order |= {"seed": seed, "shuffle": shuffle}

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        if data.get_worker_info():
            raise InputError("Batches are made ahead on a thread, so they need no worker; give num_workers=0.")
        end = (self.position // len(self) + 1) * len(self)
        while self.position < end:
            batch = formatted(self._loader(self.position), self.format)
            self.position += 1
            yield batch if self._batched else rows_of(batch)[0]

    def set_epoch(self, epoch: int) -> None:
        """Continue at the start of an epoch, which trainers name when they resume."""
        self.position = epoch * len(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what makes the order."""
        return {"position": self.position, **self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the position of a state.

        Raises:
            InputError: the state is one of another order.
        """
        for name, value in self._order.items():
            if state.get(name) != value:
                raise InputError(f"The state is of {name} = {state.get(name)!r}, and these batches have {value!r}.")
        self.position = int(state["position"])


def rows_of(batch: tuple[Tensor, ...] | dict[str, Tensor]) -> list[Any]:
    """Return each row of a batch in the batch's form."""
    if isinstance(batch, dict):
        return [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
    return list(zip(*batch, strict=True))
