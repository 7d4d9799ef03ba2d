from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import as_ipc, as_parquet, repeated
from reading import ROWS, WRITTEN, problems, read, texts

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.readers.look import read_file
from pipelines.corpus.readers.records import Record


@pytest.mark.parametrize("extension", ["parquet", "arrow", "feather"])
def test_only_wanted_columns_are_read(extension: str) -> None:
    def fields(**source: Any) -> list[dict[str, Any]]:
        options = SourceConfig(uri="rows", **source)
        found = read_file(io.BytesIO(WRITTEN[extension]), f"rows.{extension}", options)
        return [record.fields for record in found if isinstance(record, Record)]

    assert fields() == [{"text": row["text"]} for row in ROWS]
    assert fields(text="n") == [{"n": row["n"]} for row in ROWS]
    assert fields(metadata=["n"]) == fields(group_by=["n"]) == ROWS
    assert fields(text="body") == ROWS, "what is not there is missed among all that is"


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_two_columns_of_one_name_are_an_error(name: str) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), out)
    content = {"a.csv": b"text,text\na,b\n", "a.parquet": out.getvalue()}[name]
    assert problems(read(content, name)) == [("file", "two columns are called 'text'")]


def test_truncated_parquet_file_is_one_problem() -> None:
    found = read(WRITTEN["parquet"][:-50], "a.parquet")
    assert not texts(found) and len(problems(found)) == 1


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_parquet_bomb_is_refused_before_unpacking(packing: str) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["0" * (60 << 20)]}), out, compression=packing)
    assert "decompression bomb" in problems(read(out.getvalue(), "a.parquet", limits=0.2))[0][1]


def test_values_outside_python_are_one_problem() -> None:
    for values in (pa.array([2**50], pa.timestamp("s")), pa.array([2**30], pa.date32())):
        out = io.BytesIO()
        table = pa.table({"text": ["long ago"], "at": values})
        with pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
        assert len(problems(read(out.getvalue(), "a.arrow"))) == 1


def test_offsets_outside_the_data_are_one_problem() -> None:
    good, bad = (np.array([0, 5, 11, last], np.int32).tobytes() for last in (17, 2_000_000_000))
    buffers = [None, pa.py_buffer(good), pa.py_buffer(b"hello world, text")]
    content = as_ipc(pa.Array.from_buffers(pa.string(), 3, buffers)).replace(good, bad)
    assert bad in content
    ((place, reason),) = problems(read(content, "a.arrow"))
    assert place == "file" and "out of bounds" in reason


NULLS = pa.nulls(2_000_000_000)
BOMBS = {
    "dictionary.arrow": as_ipc(repeated("x" * (1 << 18), 200_000)),
    "dictionary.parquet": as_parquet(repeated("x" * (1 << 18), 200_000)),
    "pages.parquet": as_parquet(repeated("x" * (1 << 18), 200_000), store_schema=False),
    "rows.arrow": as_ipc(NULLS),
    "rows.feather": as_ipc(NULLS, stream=True),
    "run.arrow": as_ipc(pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.array(["x"]))),
    "fixed.arrow": as_ipc(pa.FixedSizeListArray.from_arrays(NULLS, len(NULLS))),
    "list.arrow": as_ipc(pa.ListArray.from_arrays(pa.array([0, len(NULLS)], pa.int32()), NULLS)),
    "names.parquet": as_parquet(pa.nulls(1000), "z" * 2_000_000),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", BOMBS)
def test_few_bytes_that_stand_for_much_are_one_problem(name: str) -> None:
    found = read(BOMBS[name], name)
    assert not texts(found) and [place for place, _ in problems(found)] == ["file"]


@pytest.mark.integration
def test_encoded_columns_have_the_values_of_plain_ones() -> None:
    values = ["one", None, "two", "two"]
    plain = pa.array(values)
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 4], pa.int32()), pa.array(["one", None, "two"]))
    lists = pa.ListArray.from_arrays(pa.array([0, 3, 4], pa.int32()), plain.dictionary_encode())
    for array in (plain.dictionary_encode(), plain.cast(pa.string_view()), runs):
        assert [
            record.fields["text"] for record in read(as_ipc(array), "a.arrow") if isinstance(record, Record)
        ] == values
    (first, second) = read(as_ipc(lists), "a.arrow")
    assert isinstance(first, Record) and first.fields["text"] == values[:3]
    assert isinstance(second, Record) and second.fields["text"] == values[3:]
