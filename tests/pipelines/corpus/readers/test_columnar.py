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
from pipelines.corpus.readers.records import Bad, Record


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


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (pa.array([0, -800_000], pa.date32()), "-0221-09-04"),
        (pa.array([0, 2**50], pa.timestamp("ms")), "<value out of range: 1125899906842624>"),
        (pa.array([0, 2**62], pa.duration("s")), "4611686018427387904"),
        (pa.array([{"b": [0]}, {"b": [2**30]}], pa.struct({"b": pa.list_(pa.date32())})), None),
    ],
)
def test_values_outside_python_are_texts(values: pa.Array, shown: str | None) -> None:
    table = pa.table({"text": ["a", "b"], "at": values})
    found = [record.fields["at"] for record in read(written(table), "a.parquet") if isinstance(record, Record)]
    assert found == [values[0].as_py(), shown or {"b": ["<value out of range: 1073741824>"]}]


def written(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def test_nan_is_read_as_null() -> None:
    table = pa.table({"text": ["a", "b", "c"], "n": [1.5, float("nan"), None]})
    assert [record.fields["n"] for record in read(written(table), "a.parquet") if isinstance(record, Record)] == [
        1.5,
        None,
        None,
    ]


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()])
def test_bytes_outside_utf_8_cost_their_row_alone(type_: pa.DataType) -> None:
    of_bytes = pa.array([b"a", b"b\xe4", b"c"], pa.binary() if type_ == pa.string() else pa.large_binary())
    column = pa.Array.from_buffers(type_, 3, of_bytes.buffers())
    for content, name in ((as_parquet(column), "a.parquet"), (as_ipc(column), "a.arrow")):
        assert [
            (record.fields["text"], record.location) for record in read(content, name) if isinstance(record, Record)
        ] == [("a", "row 1"), ("b\udce4", "row 2"), ("c", "row 3")]


def test_offsets_outside_the_data_cost_their_row() -> None:
    good, bad = (np.array([0, 5, 11, last], np.int32).tobytes() for last in (17, 2_000_000_000))
    buffers = [None, pa.py_buffer(good), pa.py_buffer(b"hello world, text")]
    content = as_ipc(pa.Array.from_buffers(pa.string(), 3, buffers)).replace(good, bad)
    assert bad in content
    found = read(content, "a.arrow")
    ((place, reason),) = problems(found)
    assert texts(found) == ["hello", " world"]
    assert place == "row 3" and reason.startswith("column 'text': ") and "out of bounds" in reason


def lost(found: list[Record | Bad]) -> list[tuple[str, int]]:
    return [(bad.location, bad.lost_rows) for bad in found if isinstance(bad, Bad)]


def test_damaged_row_group_costs_its_rows_alone() -> None:
    rows = [f"row {number} " + "abc" * (number % 7) for number in range(3000)]
    table = pa.table({"n": range(3000), "text": rows})
    content = bytearray(written(table, row_group_size=1000, compression="snappy"))
    column = pq.read_metadata(io.BytesIO(content)).row_group(1).column(1)
    start = column.data_page_offset + 40
    content[start : start + 40] = bytes(40)
    found = read(bytes(content), "a.parquet")
    ((place, n_lost),) = lost(found)
    assert (place, 0 < n_lost <= 1000) == (f"after row {2000 - n_lost}", True)
    assert texts(found) == rows[: 2000 - n_lost] + rows[2000:]
    assert [record.location for record in found][-1] == "row 3000"
    assert problems(found)[0][1].startswith("column 'text': ")
    options = SourceConfig(uri="a.parquet", text="n")
    assert not problems(list(read_file(io.BytesIO(content), "a.parquet", options))), "nobody asks for the column"


def test_damaged_batch_costs_its_rows_alone() -> None:
    out, schema = io.BytesIO(), pa.schema({"text": pa.string(), "n": pa.int64()})
    with pa.ipc.new_file(out, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for number in range(3):
            writer.write_batch(pa.record_batch([["ab" * 50 + str(number)] * 9, range(9)], schema=schema))
    content, magic = bytearray(out.getvalue()), b"\x28\xb5\x2f\xfd"
    frames = [at for at in range(len(content)) if content.startswith(magic, at)]
    content[frames[len(frames) // 3] : frames[len(frames) // 3] + 4] = b"\0\0\0\0"
    found = read(bytes(content), "a.arrow")
    assert len(texts(found)) == 18 and lost(found) == [("after row 9", 9)]
    assert problems(found)[0][1].startswith("column 'text': ")


def test_arrow_file_without_its_end_is_read_up_to_it() -> None:
    found = read(WRITTEN["arrow"][:-100], "a.arrow")
    assert texts(found) == [row["text"] for row in ROWS] and len(problems(found)) == 1


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
