"""Shards of token ids: Arrow files that are memory-mapped."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.store.dataset import Dataset
from pipelines.store.files import whole_file
from pipelines.store.intact import damaged
from pipelines.tokens.mapped import map_batches
from pipelines.tokens.tokenizer import FILE, Tokenizer
from pipelines.tokens.tokenizers import load_tokenizer


@dataclass(frozen=True)
class Tokens:
    """A published tokens dataset: shards of token ids, memory-mapped."""

    dataset: Dataset

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer that made the ids."""
        return load_tokenizer(self.dataset.file(FILE))

    @cached_property
    def shards(self) -> list[pa.RecordBatch]:
        """Return every shard as a record batch (doc_id, split, n_tokens, tokens), by number. Pages are read on use.

        Raises:
            Damaged: a file is damaged.
        """
        return [self._shard(path) for path in self.dataset.files("*.arrow")]

    def _shard(self, path: Path) -> pa.RecordBatch:
        batches = map_batches(self.dataset, path.name)
        if len(batches) != 1 or not len(batches[0]):
            raise self.dataset.damaged(path.name, "it does not have one record batch with documents")
        return batches[0]

    def split(self, shard: int) -> str:
        """Return the split of all documents of a shard."""
        return str(self.shards[shard]["split"][0])

    def shards_of(self, split: str) -> list[int]:
        """Return the numbers of the shards of a split."""
        return [shard for shard in range(len(self.shards)) if self.split(shard) == split]

    def flat(self, shard: int) -> NDArray[np.unsignedinteger]:
        """Return a shard's ids, one document after another, as a view of the mapped file."""
        return self.shards[shard]["tokens"].values.to_numpy(zero_copy_only=True)

    def offsets(self, shard: int) -> NDArray[np.int64]:
        """Return where each document begins in a shard's ids, and at the end, where the last one ends."""
        return self.shards[shard]["tokens"].offsets.to_numpy(zero_copy_only=True)

    def streams(self, split: str) -> Iterator[NDArray[np.unsignedinteger]]:
        """Yield the ids of a split, one view for each shard, after a look at every id.

        Raises:
            Damaged: an id lies outside the vocabulary.
        """
        yield from (self.known(self.flat(shard)) for shard in self.shards_of(split))

    def known(self, ids: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        """Return ids of this dataset as they are.

        Raises:
            Damaged: an id lies outside the vocabulary, so a model would have no embedding of it.
        """
        if ids.size and (largest := int(ids.max())) >= self.tokenizer.vocabulary:
            why = f"token id {largest} lies outside the vocabulary of {self.tokenizer.vocabulary:,}"
            raise damaged(self.dataset.folder, self.dataset, why)
        return ids


class Shard(NamedTuple):
    """The file of a shard, and what it holds. JSON stores it as a list."""

    path: str
    split: str
    documents: int
    tokens: int
    bytes: int


class ShardWriter:
    """A writer of the shards of one split. A document is never divided."""

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer, shard_tokens: int) -> None:
        self._folder, self._split, self._limit = folder, split, shard_tokens
        self._dtype = tokenizer.dtype
        # Ids are collected in a file, since a shard of them in memory would dominate the peak of memory.
        self._ids = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self._shards: list[Shard] = []
        self._clear()

    def _clear(self) -> None:
        self._ids.seek(0)
        self._ids.truncate()
        self._lengths: list[NDArray[np.int64]] = []
        self._doc_ids: list[pa.Array] = []
        self._tokens = self._bytes = 0

    def add(self, documents: pa.RecordBatch, ids: NDArray[np.unsignedinteger], lengths: NDArray[np.int64]) -> None:
        """Add documents with their ids, which are one after another, and the number of ids of each."""
        while self._tokens + len(ids) > self._limit:
            # Take as many whole documents as still fit, or one that fits into no shard.
            n = int(np.searchsorted(np.cumsum(lengths), self._limit - self._tokens, side="right"))
            n = max(n, 0 if self._tokens else 1)
            self._take(documents.slice(0, n), ids[: int(lengths[:n].sum())], lengths[:n])
            documents, ids, lengths = documents.slice(n), ids[int(lengths[:n].sum()) :], lengths[n:]
            self._write()
        self._take(documents, ids, lengths)

    def _take(self, documents: pa.RecordBatch, ids: NDArray[np.unsignedinteger], lengths: NDArray[np.int64]) -> None:
        if len(documents):
            self._ids.write(ids.data)
            self._lengths.append(lengths)
            self._doc_ids.append(documents["doc_id"])
            self._tokens += len(ids)
            self._bytes += pc.sum(documents["n_bytes"]).as_py()

    def _write(self) -> None:
        if not self._tokens:
            return
        path = self._folder / f"{self._split}-{len(self._shards):05d}.arrow"
        self._ids.flush()
        ids = np.memmap(self._ids, self._dtype, "r", shape=(self._tokens,))
        lengths = np.concatenate(self._lengths)
        write_shard(path, self._split, pa.concat_arrays(self._doc_ids), lengths, ids)
        self._shards.append(Shard(str(path), self._split, len(lengths), self._tokens, self._bytes))
        self._clear()

    def close(self) -> list[Shard]:
        """Write the last shard and return all of them."""
        self._write()
        self._ids.close()
        return self._shards


def write_shard(
    path: Path, split: str, doc_ids: pa.StringArray, lengths: NDArray[np.int64], ids: NDArray[np.unsignedinteger]
) -> None:
    """Write documents as an Arrow IPC file of one record batch. Its flat list values are the training stream."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    columns = {
        "doc_id": doc_ids,
        "split": pa.repeat(split, len(doc_ids)),
        "n_tokens": pa.array(lengths, pa.int64()),
        "tokens": pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(ids)),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    with whole_file(path) as part, pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
