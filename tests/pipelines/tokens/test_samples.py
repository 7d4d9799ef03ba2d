from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipelines.corpus.documents import SPLITS
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store
from pipelines.tokens.samples import SAMPLE, Samples
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE

Build = Callable[..., Dataset]


@pytest.fixture
def tokens(build: Build, corpus: Dataset) -> Dataset:
    return build(TOKENIZE, {"encoding": "bpe", "vocabulary": 300, "shard_tokens": 500}, corpus=corpus)


@pytest.mark.parametrize("stride", [3, 8, 13])
def test_stream_windows_start_a_stride_apart(build: Build, tokens: Dataset, stride: int) -> None:
    shards = Tokens(tokens)
    samples = Samples(build(SAMPLE, {"context": 8, "stride": stride}, tokens=tokens))
    for split in SPLITS:
        step = stride if split == "train" else 8
        starts = {(shard, start) for shard, batch in samples.batches_of(split) for start in batch["start"].to_pylist()}
        assert starts == {
            (shard, start)
            for shard in range(len(shards.shards))
            if shards.split(shard) == split
            for start in range(0, len(shards.flat(shard)), step)
            if start + 8 + 1 <= len(shards.flat(shard))
        }


def test_sample_names_the_document_of_its_first_token(build: Build, tokens: Dataset) -> None:
    shards = [batch.to_pylist() for batch in Tokens(tokens).shards]
    rows = [row for batch in Samples(build(SAMPLE, {"context": 5}, tokens=tokens)).batches for row in batch.to_pylist()]
    assert [row["sample_id"] for row in rows] == list(range(len(rows)))
    for row in rows:
        seen = 0
        for document in shards[row["shard"]]:
            seen += document["n_tokens"]
            if row["start"] < seen:
                assert (row["doc_id"], row["split"]) == (document["doc_id"], document["split"])
                break


def test_too_long_context_error_names_the_longest_shard(build: Build, store: Store, tokens: Dataset) -> None:
    with pytest.raises(InputError, match=r"context is 100000, but the longest training shard of .* has \d+ tokens"):
        build(SAMPLE, {"context": 100_000}, tokens=tokens)
    assert not store.list("samples")


def test_held_out_split_without_a_window_is_a_warning(build: Build, corpus: Dataset, warnings: Any) -> None:
    dataset = build(TOKENIZE, {"encoding": "bpe", "vocabulary": 300}, corpus=corpus)
    longest = max(map(len, Tokens(dataset).streams("test")))
    assert longest < max(map(len, Tokens(dataset).streams("train"))) - 1
    samples = build(SAMPLE, {"context": longest}, tokens=dataset)
    assert samples.manifest.statistics["samples_test"] == 0 and "no test samples" in warnings.sentences[0]


@pytest.mark.parametrize("boundaries", ["stream", "document"])
@pytest.mark.parametrize("stride", [3, 16, 16 + 1, 16 + 7])
def test_cropped_share_counts_the_tokens_outside_windows(
    build: Build, tokens: Dataset, stride: int, boundaries: str
) -> None:
    strides = {"stride": stride, "held_out_stride": stride}
    samples = build(SAMPLE, {"context": 16, "boundaries": boundaries, **strides}, tokens=tokens)
    left = total = 0
    for shard in range(len(Tokens(tokens).shards)):
        seen = np.zeros(len(Tokens(tokens).flat(shard)), bool)
        for split in SPLITS:
            for number, batch in Samples(samples).batches_of(split):
                for row in batch.to_pylist() if number == shard else []:
                    pieces = zip(row.get("starts", [row["start"]]), row.get("lengths", [16]), strict=True)
                    for start, length in pieces:
                        seen[start : start + length + 1] = True
        left, total = left + int((~seen).sum()), total + len(seen)
    assert samples.manifest.statistics["cropped_share"] == pytest.approx(left / total, abs=1e-6)
