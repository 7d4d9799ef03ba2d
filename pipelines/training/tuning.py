"""The validation items on which a training chooses: those that are not kept out for the promotion gate.

Windows of a stream are cut from a stream of these documents alone. So the others change nothing, not even a context.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpt.batch import Batch
from pipelines.corpus.examples import Examples
from pipelines.corpus.kept_out import divide, kept_out
from pipelines.tokens.samples import Samples
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenized_examples import TokenizedExamples
from pipelines.training.batches import pack

SPLIT = "validation"

NOTHING_TO_CHOOSE_ON = (
    "no validation {item} to choose the best weights on, so the last ones are kept; a larger split.validation gives "
    "some"
)


def tuning_examples(tokenized: TokenizedExamples, examples: Examples) -> list[int]:
    """Return the numbers of the validation lessons whose examples are not kept out."""
    keeps_out = {row.id for row in divide(examples.rows(SPLIT))[1]}
    return [i for i, name in enumerate(tokenized.examples(SPLIT)) if name not in keeps_out]


def tuning_batches(samples: Samples, tokens: Tokens, batch_size: int, most: int) -> list[Batch]:
    """Return batches of windows that are spread evenly over the documents; none if there are no documents.

    Args:
        samples: says how windows are cut.
        tokens: the documents.
        batch_size: windows in a batch. All batches are of one size.
        most: most windows in all.
    """
    return (_packed if samples.packed else _stream)(samples, tokens, batch_size, most)


def _spread(n: int, batch_size: int, most: int) -> NDArray[np.int64]:
    """Return the numbers (batches, windows) of the chosen of n windows."""
    size = min(n, batch_size, most)
    n_batches = min(n, most) // size
    return (np.arange(n_batches * size) * n // (n_batches * size)).reshape(n_batches, size)


def _stream(samples: Samples, tokens: Tokens, batch_size: int, most: int) -> list[Batch]:
    config = samples.dataset.manifest.config
    shards = tokens.shards_of(SPLIT)
    begins, lengths, shard_of = [], [], []  # of the documents
    for shard in shards:
        offsets, chooses = tokens.offsets(shard), ~kept_out(tokens.shards[shard]["doc_id"].to_pylist())
        begins.append(offsets[:-1][chooses])
        lengths.append(np.diff(offsets)[chooses])
        shard_of.append(np.full(chooses.sum(), shard))
    if not shards or (total := int(sum(map(np.sum, lengths)))) < 2:
        return []
    begin, length, shard_of_document = map(np.concatenate, (begins, lengths, shard_of))
    ends = np.cumsum(length)
    context = min(samples.context, total - 1)
    stride = config["held_out_stride"] or samples.context
    n_windows = (total - context - 1) // stride + 1

    def ids_of(windows: NDArray[np.int64]) -> torch.Tensor:
        """Return the ids (B, T + 1) of windows."""
        places = windows[:, None] * stride + np.arange(context + 1)
        documents = np.searchsorted(ends, places, side="right")
        at = places - ends[documents] + length[documents] + begin[documents]
        ids = np.empty(places.shape, np.int64)
        for shard in np.unique(shard_of_document[documents]):
            here = shard_of_document[documents] == shard
            ids[here] = tokens.known(tokens.flat(int(shard))[at[here]])
        return torch.from_numpy(ids)

    return [Batch(ids[:, :-1], ids[:, 1:]) for ids in map(ids_of, _spread(n_windows, batch_size, most))]


def _packed(samples: Samples, tokens: Tokens, batch_size: int, most: int) -> list[Batch]:
    """Leave the pieces of the documents that are kept out empty in their windows."""
    windows: list[list[tuple[int, int, int]]] = []  # the shard, the start and the length of each piece
    for shard, batch in samples.batches_of(SPLIT):
        chooses = ~kept_out(tokens.shards[shard]["doc_id"].to_pylist())
        for starts, lengths in zip(batch["starts"].to_pylist(), batch["lengths"].to_pylist(), strict=True):
            documents = np.searchsorted(tokens.offsets(shard), starts, side="right") - 1
            pieces = zip(starts, lengths, chooses[documents], strict=True)
            if kept := [(shard, start, length) for start, length, chosen in pieces if chosen]:
                windows.append(kept)

    def piece(number: int, place: tuple[int, int, int]) -> tuple[Any, Any, int]:
        shard, start, length = place
        ids = tokens.known(tokens.flat(shard)[start : start + length + 1])
        return ids[:-1], ids[1:], number

    return [
        pack(
            [[piece(number, place) for number, place in enumerate(windows[window])] for window in chosen],
            samples.context,
            fill=tokens.tokenizer.end_of_text,
        )
        for chosen in (_spread(len(windows), batch_size, most) if windows else [])
    ]
