"""A training chooses on the validation items that are not kept out, and reads nothing of the others."""

import numpy as np
import pytest

from gpt.batch import IGNORE
from pipelines.corpus.kept_out import kept_out
from pipelines.tokens.samples import SAMPLE, Samples
from pipelines.tokens.shards import Tokens
from pipelines.training.tuning import tuning_batches

pytestmark = pytest.mark.usefixtures("few_decide")


@pytest.fixture
def documents(inputs):
    """The ids of each validation document that chooses, and of each that is kept out."""
    tokens = Tokens(inputs["tokens"])
    (shard,) = (shard for number, shard in enumerate(tokens.shards) if tokens.split(number) == "validation")
    keeps_out, ids = kept_out(shard["doc_id"].to_pylist()), [row.as_py() for row in shard["tokens"]]
    sides = [[row for row, kept in zip(ids, keeps_out, strict=True) if kept == side] for side in (False, True)]
    assert all(sides), "the two sides have documents"
    return sides


def test_stream_windows_hold_no_document_that_is_kept_out(inputs, documents):
    stream = np.concatenate(documents[0])
    batches = tuning_batches(Samples(inputs["samples"]), Tokens(inputs["tokens"]), 4, 10_000)
    windows = np.concatenate([np.column_stack([batch.inputs, batch.targets[:, -1:]]) for batch in batches])
    assert {batch.inputs.shape for batch in batches} == {(4, 32)} and len(windows) > len(stream) // 32 - 4
    starts = np.arange(len(stream) // 32 + 1) * 32
    known = {tuple(stream[start : start + 33]) for start in starts}
    assert {tuple(window) for window in windows} <= known
    (few,) = tuning_batches(Samples(inputs["samples"]), Tokens(inputs["tokens"]), 4, 3)
    assert few.inputs.shape == (3, 32)


def test_packed_windows_hold_no_document_that_is_kept_out(build, inputs, documents):
    packed = build(SAMPLE, {"context": 32, "boundaries": "document"}, tokens=inputs["tokens"])
    batches = tuning_batches(Samples(packed), Tokens(inputs["tokens"]), 1, 10_000)
    read = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
    assert read == sum(len(row) - 1 for row in documents[0])
    targets = np.concatenate([batch.targets[batch.targets != IGNORE] for batch in batches])
    assert sorted(targets) == sorted(np.concatenate([row[1:] for row in documents[0]]))
