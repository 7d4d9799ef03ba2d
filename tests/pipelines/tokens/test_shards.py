from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.store.dataset import Dataset
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE

Build = Callable[..., Dataset]
BPE = {"encoding": "bpe", "vocabulary": 300}


def test_ids_are_a_view_of_the_mapped_file(build: Build, corpus: Dataset) -> None:
    flat = Tokens(build(TOKENIZE, BPE, corpus=corpus)).flat(0)
    assert flat.dtype == np.uint16 and not flat.flags.owndata and not flat.flags.writeable


def by_document(tokens: Dataset) -> dict[str, tuple[str, list[int]]]:
    """Return the split and the ids of each document that is whole."""
    return {
        row["doc_id"]: (row["split"], row["tokens"])
        for batch in Tokens(tokens).shards
        for row in batch.to_pylist()
        if row["n_tokens"] == len(row["tokens"])
    }


def test_shards_hold_whole_documents_up_to_their_limit(build: Build, corpus: Dataset) -> None:
    whole = by_document(build(TOKENIZE, BPE, corpus=corpus))
    dataset = build(TOKENIZE, {**BPE, "shard_tokens": 100}, corpus=corpus)
    assert by_document(dataset) == whole
    assert dataset.manifest.statistics["shards"] > 20
    assert all(len(Tokens(dataset).flat(i)) <= 100 for i in range(len(Tokens(dataset).shards)))
    tiny = build(TOKENIZE, {**BPE, "shard_tokens": 1}, corpus=corpus)
    assert by_document(tiny) == whole and tiny.manifest.statistics["shards"] == len(whole)
