from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import ROWS, WRITTEN, problems, read, texts

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.readers.formats import read_file
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
