"""Sample: tokens become windows of a context length.

A sample is a shard and a start, and copies no token. Its inputs are the tokens from the start on, and its targets are
the same tokens one place later. No window crosses a shard. There are two kinds of windows:

- `stream`: windows start a stride apart in the stream of documents, like GPT-2's.
- `document`: windows keep documents apart. Long documents are divided, and short ones are packed into shared windows
  by best fit. Attention and positions are separate for each document.

Output: `samples.arrow` (Arrow IPC: sample_id, split, shard, start, doc_id), in the order of the tokens. `document`
windows also list the `starts` and `lengths` of their pieces.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from gpt.config import Config
from pipelines.corpus.documents import SPLITS, split_counts
from pipelines.errors import InputError
from pipelines.numbers import counted
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.mapped import PACKED, STREAM, map_batches
from pipelines.tokens.packing import best_fit
from pipelines.tokens.shards import Tokens

FILE = "samples.arrow"

ROWS = 1 << 20  # in a record batch


class SampleConfig(Config):
    """How tokens are divided into windows."""

    context: int = Field(256, gt=0)
    """Tokens in a window, which the model attends over."""
    stride: int | None = Field(None, gt=0)
    """Tokens between the starts of training windows; by default the context."""
    held_out_stride: int | None = Field(None, gt=0)
    """The same for validation and test; by default the context, so windows do not overlap."""
    boundaries: Literal["stream", "document"] = "stream"
    """stream: windows cross the ends of documents; document: windows keep documents apart."""


def run(inputs: Mapping[str, Dataset], config: SampleConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Divide every shard into windows, and count the tokens outside of windows and the empty places inside."""
    tokens = Tokens(inputs["tokens"])
    count, longest = Counter[str](), Counter[str]()
    schema, make_windows = (STREAM, _stream) if config.boundaries == "stream" else (PACKED, _packed)
    with pa.OSFile(str(out / FILE), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for shard in range(len(tokens.shards)):
            split = tokens.split(shard)
            longest[split] = max(longest[split], len(tokens.flat(shard)))
            stride = (config.stride if split == "train" else config.held_out_stride) or config.context
            for places in make_windows(tokens, shard, config.context, stride, count):
                n = len(places["start"])
                documents = np.searchsorted(tokens.offsets(shard), places["start"], side="right") - 1
                columns = {
                    "sample_id": pa.array(count["samples"] + np.arange(n), pa.int64()),
                    "split": pa.array([split] * n, pa.string()),
                    "shard": pa.array(np.full(n, shard), pa.int32()),
                    "doc_id": tokens.shards[shard]["doc_id"].take(pa.array(documents)),
                    **places,
                }
                writer.write_batch(pa.RecordBatch.from_pydict(columns, schema))
                count["samples"] += n
                count[f"samples_{split}"] += n
            work.listener.progress(shard + 1, len(tokens.shards), "shards")
    if not count["samples_train"]:
        raise InputError(
            f"sample.context is {config.context}, but the longest training shard of {inputs['tokens']} has "
            f"{longest['train']} tokens and a window needs one more than its context; ask for a shorter context."
        )
    for split in ("validation", "test"):
        if longest[split] and not count[f"samples_{split}"]:
            work.listener.warn(f"no {split} samples: its longest shard has {longest[split]} tokens, less than a window")
    return {
        "samples": count["samples"],
        **{f"samples_{split}": count[f"samples_{split}"] for split in SPLITS},
        "cropped_share": round(count["cropped"] / max(count["tokens"], 1), 6),  # of the tokens, in no window
        "padded_share": round(count["padded"] / max(count["samples"] * config.context, 1), 6),  # of the places, empty
    }


def _headline(s: Mapping[str, Any]) -> str:
    return f"{counted(s['samples'], 'sample')}: {split_counts(s, 'samples')}"


SAMPLE = StepType(
    "sample",
    kind="samples",
    version=1,
    config=SampleConfig,
    run=run,
    packages=("pipelines.tokens",),
    headline=_headline,
)


def _stream(tokens: Tokens, shard: int, context: int, stride: int, count: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield windows a stride apart, each with one more token for its last target."""
    n_tokens = len(tokens.flat(shard))
    starts = range(0, n_tokens - context, stride)
    count["tokens"] += n_tokens
    covered = (len(starts) - 1) * min(stride, context + 1) + context + 1 if starts else 0
    count["cropped"] += n_tokens - covered
    for first in range(0, len(starts), ROWS):
        yield {"start": np.arange(first, min(first + ROWS, len(starts))) * stride}


def _packed(tokens: Tokens, shard: int, context: int, stride: int, count: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield windows of pieces of documents. The end of text is the last target of its document, and no input."""
    offsets = tokens.offsets(shard)
    inputs = np.diff(offsets) - 1  # of each document
    n_pieces = -(-inputs // stride)  # a long document's pieces begin a stride apart
    which = np.repeat(np.arange(len(inputs)), n_pieces)
    begin = (np.arange(len(which)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)) * stride
    rest = inputs[which] - begin
    starts, lengths = offsets[which] + begin, np.minimum(rest, context)
    windows = best_fit(lengths, context)
    count["tokens"] += int(offsets[-1])
    # A piece holds one token more than its inputs: its last target. The next piece may begin after it.
    count["cropped"] += int(np.maximum(np.where(rest > stride, stride - 1, rest) - lengths, 0).sum())
    count["padded"] += len(windows) * context - int(lengths.sum())
    windows.sort(key=lambda window: window[0])
    for first in range(0, len(windows), ROWS):
        some = windows[first : first + ROWS]
        pieces = np.array([piece for window in some for piece in window], np.int64)
        ends = pa.array(np.cumsum([0, *map(len, some)]), pa.int32())
        yield {
            "start": starts[[window[0] for window in some]],
            "starts": pa.ListArray.from_arrays(ends, pa.array(starts[pieces], pa.int64())),
            "lengths": pa.ListArray.from_arrays(ends, pa.array(lengths[pieces], pa.int32())),
        }


@dataclass(frozen=True)
class Samples:
    """A published samples dataset: the starts of windows into a tokens dataset."""

    dataset: Dataset

    @property
    def context(self) -> int:
        """Return the number of tokens in a window. Its targets reach one token further."""
        return int(self.dataset.manifest.config["context"])

    @cached_property
    def batches(self) -> list[pa.RecordBatch]:
        """Return memory-mapped record batches (sample_id, split, shard, start, doc_id), each of one split and shard.

        Raises:
            Damaged: the file is damaged.
        """
        batches = map_batches(self.dataset, FILE)
        if not all(map(len, batches)) or any(("starts" in batch.schema.names) != self.packed for batch in batches):
            raise self.dataset.damaged(FILE, "its columns are not those of its config")
        return batches

    @property
    def packed(self) -> bool:
        """Return whether windows are made of pieces of documents."""
        return self.dataset.manifest.config["boundaries"] == "document"

    def batches_of(self, split: str) -> list[tuple[int, pa.RecordBatch]]:
        """Return the record batches of a split, each with the number of its shard."""
        return [(batch["shard"][0].as_py(), batch) for batch in self.batches if batch["split"][0].as_py() == split]

    def check(self, tokens: Tokens) -> None:
        """Check that every window is inside a shard.

        Raises:
            Damaged: a window does not.
        """
        sizes = [len(tokens.flat(shard)) for shard in range(len(tokens.shards))]
        for batch in self.batches:
            shards = batch["shard"].to_numpy()
            if shards.min() != shards.max() or not 0 <= shards[0] < len(sizes):
                raise self.dataset.damaged(
                    FILE, f"{tokens.dataset} has {len(sizes)} shards, and a window belongs to another"
                )
            if self.packed:
                starts, lengths = self._pieces(batch)
            else:
                starts, lengths = batch["start"].to_numpy(), np.full(1, self.context)
            last = sizes[shards[0]] - 1  # the last target is one token behind the window
            if starts.min(initial=0) < 0 or (starts > last - lengths).any():
                raise self.dataset.damaged(FILE, f"a window leaves its shard of {tokens.dataset}")

    def _pieces(self, batch: pa.RecordBatch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the starts and lengths of the pieces of packed windows, which must fit into the windows."""
        starts, lengths = batch["starts"], batch["lengths"]
        if not starts.offsets.equals(lengths.offsets) or pc.min(lengths.values).as_py() < 0:
            raise self.dataset.damaged(FILE, "a window has pieces without a start or a length")
        ends = np.concatenate([[0], np.cumsum(lengths.values.to_numpy(), dtype=np.int64)])[lengths.offsets.to_numpy()]
        if np.diff(ends).max() > self.context:
            raise self.dataset.damaged(FILE, "the pieces of a window are longer than the context")
        return starts.values.to_numpy(), lengths.values.to_numpy().astype(np.int64)
