"""Sample: tokens become windows of a context length, some stride apart.

A sample is a place, not a copy: shard and start. Its inputs are the `context` tokens from there, and its targets
the same, one token further, so a window needs one token more than the context. No window crosses a shard.

Output: `samples.arrow` (Arrow IPC: sample_id, split, shard, start, doc_id), in the order of the tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from pydantic import Field

from gpt.config import Config
from pipelines.datasets import Tokens
from pipelines.documents import SPLITS
from pipelines.errors import InputError
from pipelines.step import StepType, Work
from pipelines.store import Dataset

SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("split", pa.string()),
        ("shard", pa.int32()),
        ("start", pa.int64()),
        ("doc_id", pa.string()),  # of the window's first token
    ]
)
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


def run(inputs: Mapping[str, Dataset], config: SampleConfig, out: Path, work: Work) -> dict[str, Any]:
    tokens = Tokens(inputs["tokens"])
    samples: Counter[str] = Counter()
    longest: Counter[str] = Counter()
    with pa.OSFile(str(out / "samples.arrow"), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for shard in range(len(tokens.shards)):
            split, flat, offsets = tokens.split(shard), tokens.flat(shard), tokens.offsets(shard)
            longest[split] = max(longest[split], len(flat))
            stride = (config.stride if split == "train" else config.held_out_stride) or config.context
            starts = range(0, len(flat) - config.context, stride)
            for first in range(0, len(starts), BATCH):
                some = np.arange(len(starts))[first : first + BATCH] * stride
                ids = sum(samples.values()) + np.arange(len(some))
                documents = pa.array(np.searchsorted(offsets, some, side="right") - 1)
                columns = {
                    "sample_id": pa.array(ids, pa.int64()),
                    "split": pa.array([split] * len(some), pa.string()),
                    "shard": pa.array(np.full(len(some), shard), pa.int32()),
                    "start": pa.array(some, pa.int64()),
                    "doc_id": tokens.shards[shard]["doc_id"].take(documents),
                }
                writer.write_batch(pa.RecordBatch.from_pydict(columns, SCHEMA))
                samples[split] += len(some)
            work.report.progress(shard + 1, len(tokens.shards), "shards")
    if not samples["train"]:
        raise InputError(
            f"sample.context is {config.context}, but the longest training shard of {inputs['tokens']} has "
            f"{longest['train']} tokens and a window needs one more than its context; ask for a shorter context."
        )
    for split in ("validation", "test"):
        if longest[split] and not samples[split]:
            work.report.warn(f"no {split} samples: its longest shard has {longest[split]} tokens, less than a window")
    return {"samples": sum(samples.values()), **{f"samples_{split}": samples[split] for split in SPLITS}}


SAMPLE = StepType("sample", kind="samples", version=1, config=SampleConfig, run=run, modules=("pipelines.sample",))
