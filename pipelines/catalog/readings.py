"""The table `readings`: which sample a pretraining read at which step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipelines.catalog.columns import arrow_schema
from pipelines.catalog.selection import Selection
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.tokens.order import order_seed, samples_at

if TYPE_CHECKING:  # slow to import, and most queries need none
    from pipelines.tokens.samples import Samples

COLUMNS = "model VARCHAR, samples VARCHAR, sample_id BIGINT, step BIGINT, epoch BIGINT"
COMMENT = "The samples that pretraining read at each step; an epoch reads all of them once, in an order of its own."
SCHEMA = arrow_schema(COLUMNS)
ROWS = 1 << 16  # that are made at once


def read(selection: Selection) -> Iterator[pa.RecordBatch]:
    """Yield the readings of every pretrained model that the catalog shows and whose samples are still there."""
    from pipelines.tokens.samples import Samples

    labels = {dataset.ref: label for label, dataset in selection.shown.get("samples", {}).items()}
    for name, model in selection.shown.get("model", {}).items():
        if "samples" in model.manifest.inputs:
            ref = model.manifest.inputs["samples"]
            with suppress(InputError):  # which were deleted
                yield from _readings(name, model, labels.get(ref, str(ref)), Samples(selection.store.open(ref)))


def _readings(name: str, model: Dataset, label: str, samples: Samples) -> Iterator[pa.RecordBatch]:
    config, inputs = model.manifest.config, model.manifest.inputs
    ids = np.concatenate([batch["sample_id"].to_numpy() for _, batch in samples.batches_of("train")])
    of_step = int(config["batch_size"]) * int(config["accumulation"])
    seed = order_seed(int(config["seed"]), inputs.get("base"))
    end = int(model.manifest.statistics["steps"]) * of_step
    for first in range(0, end, ROWS):
        positions = np.arange(first, min(first + ROWS, end))
        columns = [
            pa.repeat(name, len(positions)),
            pa.repeat(label, len(positions)),
            pa.array(ids[samples_at(positions, len(ids), seed)]),
            pa.array(positions // of_step),
            pa.array(positions // len(ids)),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
