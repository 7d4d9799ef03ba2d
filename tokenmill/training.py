"""Training data for other trainers: PyTorch, Lightning, Hugging Face's Trainer and nanoGPT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipelines.errors import InputError
from tokenmill.names import Name, find, folder_of, open_home

if TYPE_CHECKING:
    from pipelines.store.dataset import Dataset
    from tokenmill.torch_data import BatchStream, WindowDataset


def dataset(
    name: Name,
    split: str = "train",
    *,
    format: Literal["pairs", "transformers"] = "pairs",
    home: str | Path | None = None,
) -> WindowDataset:
    """Return the training windows of a split as a map-style PyTorch dataset, in their stored order.

    Args:
        name: samples: `NAME`, `NAME@FINGERPRINT`, or a folder.
        split: train, validation or test.
        format: `pairs` gives (inputs, targets), (T,) each; `transformers` gives `input_ids` and `labels`.
        home: the home folder.

    Raises:
        InputError: there are no such samples.
    """
    from tokenmill.torch_data import WindowDataset

    return WindowDataset(*_samples(name, home), split, format)


def batches(
    name: Name,
    split: str = "train",
    *,
    batch_size: int | None = 16,
    seed: int = 0,
    shuffle: bool = True,
    format: Literal["pairs", "transformers"] = "pairs",
    home: str | Path | None = None,
) -> BatchStream:
    """Return the batches of a split in the order of our own training, as an iterable PyTorch dataset.

    Args:
        name: samples, as for `dataset`.
        split: train, validation or test.
        batch_size: windows in a batch; None gives single windows, for a trainer that makes batches itself.
        seed: the seed of the order, `pretrain.seed` of a config.
        shuffle: false gives the stored order.
        format: as for `dataset`, with batches of (B, T).
        home: the home folder.

    Raises:
        InputError: there are no such samples.
    """
    from tokenmill.torch_data import BatchStream

    pair = _samples(name, home)
    return BatchStream(*pair, split, batch_size=batch_size, seed=seed, shuffle=shuffle, format=format)


def _samples(name: Name, home: str | Path | None) -> tuple[Dataset, Dataset]:
    """Return samples and the tokens that they are windows of."""
    from pipelines.store.store import Store

    samples = find(name, home, "samples")
    store = Store(samples.folder.absolute().parents[1]) if folder_of(name) else open_home(home).store
    return samples, store.open(samples.manifest.inputs["tokens"])


def write_bin(name: Name, path: str | Path, split: str = "train", *, home: str | Path | None = None) -> int:
    """Write the token ids of a split as nanoGPT reads them, 16 bits each, and return their number.

    Args:
        name: a token dataset: `NAME`, `NAME@FINGERPRINT`, or a folder.
        path: the file, such as `data/wiki/train.bin`.
        split: train, validation (nanoGPT's `val.bin`) or test.
        home: the home folder.

    Raises:
        InputError: there is no such dataset, the split is empty, or an id needs more than 16 bits.
    """
    from flows.environment import expand_user
    from pipelines.store.files import whole_file
    from pipelines.tokens.shards import Tokens

    found = Tokens(find(name, home, "tokens"))
    if (size := found.tokenizer.vocabulary) > 1 << 16:
        raise InputError(f"{found.dataset} has a vocabulary of {size:,}, and 16 bits hold ids below 65,536.")
    count = 0
    with whole_file(expand_user(Path(path))) as temporary, temporary.open("wb") as file:
        for ids in found.streams(split):
            file.write(ids.astype("<u2", copy=False).data)
            count += len(ids)
        if not count:
            raise InputError(f"{found.dataset} has no {split} tokens.")
    return count
