"""Arrow files with wrong offsets, columns or ids are named, whatever their checksum says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from examples import step

from pipelines.store.dataset import Dataset
from pipelines.store.intact import Damaged
from pipelines.store.store import Store
from pipelines.tokens.characters import count_characters
from pipelines.tokens.mapped import LESSONS, PACKED, SHARDS, STREAM
from pipelines.tokens.samples import Samples
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenized_examples import TokenizedExamples

NAMES = {"tokens": "tokens-00000.arrow", "samples": "samples.arrow", "lessons": "lessons.arrow"}


def publish(
    store: Store, kind: str, *batches: pa.RecordBatch, patch: tuple[bytes, bytes] = (b"", b""), **config: Any
) -> Dataset:
    def write(out: Path, scratch: Path) -> dict[str, Any]:
        with pa.ipc.new_file(str(out / NAMES[kind]), batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        content = (out / NAMES[kind]).read_bytes()
        assert not patch[0] or content.count(patch[0]) == 1
        (out / NAMES[kind]).write_bytes(content.replace(*patch))
        if kind == "tokens":
            count_characters(["abcdefgh"]).save(out)  # 8 letters and 2 special tokens
        return {}

    made = store.build(step(str(len(store.list())), kind=kind), write)
    return Dataset(made.folder, made.manifest.model_copy(update={"config": config}))


def shard(ids: list[int], offsets: list[int], **changes: Any) -> pa.RecordBatch:
    tokens = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(ids, pa.uint16()))
    n = len(offsets) - 1
    columns = {"doc_id": ["a"] * n, "split": ["train"] * n, "n_tokens": [2] * n, "tokens": tokens} | changes
    return pa.RecordBatch.from_pydict(columns)


def test_shard_is_read_as_it_was_written(store: Store) -> None:
    tokens = Tokens(publish(store, "tokens", shard([1, 2, 3, 9], [0, 2, 4])))
    assert tokens.flat(0).tolist() == [1, 2, 3, 9] and tokens.offsets(0).tolist() == [0, 2, 4]
    assert [stream.tolist() for stream in tokens.streams("train")] == [[1, 2, 3, 9]]


@pytest.mark.parametrize(
    "batches",
    [
        [shard([1, 2], [0, 2], n_tokens=pa.array([None], pa.int64()))],
        [shard([1, 2], [0, 2], n_tokens=["two"])],
        [shard([1, 2], [0, 2], more=[1])],
        [shard([1, 2], [0, 2])] * 2,
        [shard([], [0])],
    ],
)
def test_shard_with_wrong_columns_is_named(store: Store, batches: list[pa.RecordBatch]) -> None:
    dataset = publish(store, "tokens", *batches)
    with pytest.raises(Damaged, match=f"{NAMES['tokens']} is damaged; see tokenmill datasets verify {dataset.ref} "):
        assert Tokens(dataset).shards


@pytest.mark.parametrize("offsets", [(0, 2, 1 << 40), (0, 3, 2), (0, 2, 3), (1, 2, 4), (0, -5, 4), (0, 1 << 62, 4)])
def test_shard_with_wrong_offsets_is_named(store: Store, offsets: tuple[int, ...]) -> None:
    right, wrong = (np.array(each, np.int64).tobytes() for each in ([0, 2, 4], offsets))
    dataset = publish(store, "tokens", shard([1, 2, 3, 4], [0, 2, 4]), patch=(right, wrong))
    with pytest.raises(Damaged, match=f"{NAMES['tokens']} is damaged"):
        assert Tokens(dataset).shards


def test_token_outside_the_vocabulary_is_named(store: Store) -> None:
    tokens = Tokens(publish(store, "tokens", shard([1, 10], [0, 2])))
    with pytest.raises(Damaged, match="token id 10 lies outside the vocabulary of 10"):
        list(tokens.streams("train"))


def windows(starts: list[int], shards: list[int] | None = None) -> pa.RecordBatch:
    n = len(starts)
    rows = [list(range(n)), ["train"] * n, shards or [0] * n, starts, ["a"] * n]
    return pa.RecordBatch.from_pydict(dict(zip(STREAM.names, rows, strict=True)), STREAM)


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        (windows([0, 4]), "leaves its shard"),
        (windows([-1]), "leaves its shard"),
        (windows([1 << 62]), "leaves its shard"),
        (windows([0], [1]), "belongs to another"),
        (windows([0], [-1]), "belongs to another"),
        (windows([0, 1], [0, 1]), "belongs to another"),
    ],
)
def test_window_outside_its_shard_is_named(store: Store, batch: pa.RecordBatch, why: str) -> None:
    tokens = Tokens(publish(store, "tokens", shard(list(range(8)), [0, 8])))
    samples = publish(store, "samples", batch, context=4, boundaries="stream")
    with pytest.raises(Damaged, match=why):
        Samples(samples).check(tokens)
    Samples(publish(store, "samples", windows([0, 3]), context=4, boundaries="stream")).check(tokens)


@pytest.mark.parametrize(
    ("starts", "lengths"),
    [([[0, 4]], [[2, 4]]), ([[0, 4]], [[3, 2]]), ([[0, 4]], [[2, -1]]), ([[0], [4]], [[2, 1], []]), ([[-1]], [[2]])],
)
def test_piece_outside_its_shard_is_named(store: Store, starts: list[list[int]], lengths: list[list[int]]) -> None:
    tokens = Tokens(publish(store, "tokens", shard(list(range(8)), [0, 8])))
    columns = windows([0] * len(starts)).to_pydict() | {"starts": starts, "lengths": lengths}
    batch = pa.RecordBatch.from_pydict(columns, PACKED)
    with pytest.raises(Damaged, match="window"):
        Samples(publish(store, "samples", batch, context=4, boundaries="document")).check(tokens)


def test_lesson_that_no_model_can_read_is_named(store: Store) -> None:
    def lessons(tokens: list[int], learnt: list[bool] | None) -> TokenizedExamples:
        rows = [{"example_id": "a", "split": "train", "label": None, "tokens": tokens, "learnt": learnt}]
        batch = pa.RecordBatch.from_pylist(rows, LESSONS[0])
        return TokenizedExamples(publish(store, "lessons", *[batch] * 3))

    lessons([1, 2, 3], [True, False, True]).check(300, 4)
    lessons([1, 2, 3], None).check(300, 4)
    for tokens, learnt in (([1, 300], None), ([1] * 6, None), ([1, 2, 3], [True])):
        with pytest.raises(Damaged, match=r"lessons.arrow is damaged"):
            lessons(tokens, learnt).check(300, 4)
    with pytest.raises(Damaged, match="each split"):
        TokenizedExamples(publish(store, "lessons", pa.RecordBatch.from_pylist([], LESSONS[0]))).tokens("train")


def test_ids_fit_into_the_columns() -> None:
    assert [schema.field("tokens").type.value_type for schema in SHARDS] == [pa.uint16(), pa.uint32()]
