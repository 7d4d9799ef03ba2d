"""Sample: tokens become windows of a context length.

A sample is a place, not a copy: shard and start. Its inputs are the tokens from there, and its targets the same, one
token further. No window crosses a shard. Windows either lie a stride apart in the stream of documents, as GPT-2's
did, or stay within a document: long ones are divided, and short ones share a window, packed by best fit, where
attention and positions keep them apart.

Output: `samples.arrow` (Arrow IPC: sample_id, split, shard, start, doc_id), in the order of the tokens. Windows of
several documents list the `starts` and `lengths` of their pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from gpt.config import Config
from pipelines.corpus.documents import SPLITS, split_counts
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.packing import best_fit
from pipelines.tokens.shards import Tokens

COLUMNS = [
    ("sample_id", pa.int64()),
    ("split", pa.string()),
    ("shard", pa.int32()),
    ("start", pa.int64()),
    ("doc_id", pa.string()),  # of the window's first token
]


STREAM = pa.schema(COLUMNS)


PACKED = pa.schema([*COLUMNS, ("starts", pa.list_(pa.int64())), ("lengths", pa.list_(pa.int32()))])


BATCH = 1 << 20  # rows


class SampleConfig(Config):
    """From tokens to windows."""

    context: int = Field(default=256, gt=0, description="Tokens that a window holds, and that the model attends over.")
    stride: int | None = Field(
        default=None, gt=0, description="Tokens between the starts of training windows; by default the context."
    )
    held_out_stride: int | None = Field(
        default=None,
        gt=0,
        description="The same for validation and test; by default the context, so that they do not overlap.",
    )
    boundaries: Literal["stream", "document"] = Field(
        default="stream", description="Whether windows run on over the ends of documents, or stay within them."
    )


def run(inputs: Mapping[str, Dataset], config: SampleConfig, out: Path, work: StepContext) -> dict[str, Any]:
    tokens = Tokens(inputs["tokens"])
    count: Counter[str] = Counter()
    longest: Counter[str] = Counter()
    schema = STREAM if config.boundaries == "stream" else PACKED
    with pa.OSFile(str(out / "samples.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for shard in range(len(tokens.shards)):
            split = tokens.split(shard)
            longest[split] = max(longest[split], len(tokens.flat(shard)))
            stride = (config.stride if split == "train" else config.held_out_stride) or config.context
            cut = _stream if config.boundaries == "stream" else _packed
            for places in cut(tokens, shard, config.context, stride, count):
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
    places_in_all = count["samples"] * config.context
    return {
        "samples": count["samples"],
        **{f"samples_{split}": count[f"samples_{split}"] for split in SPLITS},
        "cropped_share": round(count["cropped"] / max(count["tokens"], 1), 6),  # of the tokens, in no window
        "padded_share": round(count["padded"] / max(places_in_all, 1), 6),  # of the places in windows, empty
    }


def _headline(s: Mapping[str, Any]) -> str:
    return f"{s['samples']:,} samples: {split_counts(s, 'samples')}"


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
    """Windows a stride apart, each with room for its last target."""
    n_tokens = len(tokens.flat(shard))
    starts = range(0, n_tokens - context, stride)
    count["tokens"] += n_tokens
    covered = (len(starts) - 1) * min(stride, context + 1) + context + 1 if starts else 0
    count["cropped"] += n_tokens - covered
    for first in range(0, len(starts), BATCH):
        yield {"start": np.arange(first, min(first + BATCH, len(starts))) * stride}


def _packed(tokens: Tokens, shard: int, context: int, stride: int, count: Counter[str]) -> Iterator[dict[str, Any]]:
    """Windows of pieces of documents. The end of text is the last target of its document, and no input."""
    offsets = tokens.offsets(shard)
    inputs = np.diff(offsets) - 1  # of each document
    n_pieces = -(-inputs // stride)  # a long document's pieces begin a stride apart
    which = np.repeat(np.arange(len(inputs)), n_pieces)
    begin = (np.arange(len(which)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)) * stride
    rest = inputs[which] - begin
    starts, lengths = offsets[which] + begin, np.minimum(rest, context)
    windows = best_fit(lengths, context)
    count["tokens"] += int(offsets[-1])
    # A piece holds one token more than its inputs, its last target; the next one may begin later, or there be none.
    count["cropped"] += int(np.maximum(np.where(rest > stride, stride - 1, rest) - lengths, 0).sum())
    count["padded"] += len(windows) * context - int(lengths.sum())
    windows.sort(key=lambda window: window[0])
    for first in range(0, len(windows), BATCH):
        some = windows[first : first + BATCH]
        pieces = np.array([piece for window in some for piece in window], np.int64)
        ends = pa.array(np.cumsum([0, *map(len, some)]), pa.int32())
        yield {
            "start": starts[[window[0] for window in some]],
            "starts": pa.ListArray.from_arrays(ends, pa.array(starts[pieces], pa.int64())),
            "lengths": pa.ListArray.from_arrays(ends, pa.array(lengths[pieces], pa.int32())),
        }


@dataclass(frozen=True)
class Samples:
    """Windows into a tokens dataset: where each begins."""

    dataset: Dataset

    @property
    def context(self) -> int:
        """Tokens in a window; its targets are one token further."""
        return int(self.dataset.manifest.config["context"])

    @cached_property
    def batches(self) -> list[pa.RecordBatch]:
        """Record batches (sample_id, split, shard, start, doc_id), memory-mapped; each of one split and one shard."""
        file = pa.ipc.open_file(pa.memory_map(str(self.dataset.file("samples.arrow"))))
        return [file.get_batch(i) for i in range(file.num_record_batches)]

    @property
    def packed(self) -> bool:
        """Whether windows are made of pieces of documents."""
        return self.dataset.manifest.config["boundaries"] == "document"

    def of(self, split: str) -> list[tuple[int, pa.RecordBatch]]:
        """The windows of a split: pairs of a shard and record batches of windows into it."""
        found = [batch for batch in self.batches if batch["split"][0].as_py() == split]
        return [(batch["shard"][0].as_py(), batch) for batch in found]
