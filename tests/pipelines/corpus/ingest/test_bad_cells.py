"""Files with one bad cell, as an ingest reads them: the cell costs its record, and the summary says what is lost."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import documents, rejected

from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]
MESSAGES = 'ham\tsee you at five\nham\t"Well said, I thought\nspam\tWIN a prize\nham\the asked "why" and left\n'


@pytest.mark.parametrize(
    ("name", "content", "options", "kept", "bad"),
    [
        ("a.tsv", MESSAGES, {"columns": ["label", "text"]}, ["line 1", "line 2", "line 3", "line 4"], []),
        ("a.csv", 'n,text\n1,"forgotten\n2,b\n3,"c, d"\n', {}, ["line 3", "line 4"], [("line 2", "'text'")]),
        ("a.csv", "text;n\na;1\nb;2\n", {}, ["line 2", "line 3"], []),
        ("a.csv", "text,n\nnul\0,a\ntwo,b\nthree,c\n", {}, ["line 3", "line 4"], [("line 2", "'text'")]),
        (
            "a.jsonl",
            '{"text": "a"}\n{"text": "b\0"}\n{"text": "c"}\n',
            {},
            ["line 1", "line 3"],
            [("line 2", "'text'")],
        ),
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', {}, ["line 1", "line 2"], []),
        ("a.jsonl", '[\n{"text": "a"},\n{"text": "b"}\n]\n', {}, ["record 1", "record 2"], []),
        (
            "a.json",
            '[{"text": "a"}, {"text": "b",}, {"text": "c"}]',
            {},
            ["record 1", "record 3"],
            [("record 2", "'text'")],
        ),
    ],
)
def test_bad_cell_costs_its_record(
    build: Build,
    tmp_path: Path,
    name: str,
    content: str,
    options: dict[str, object],
    kept: list[str],
    bad: list[tuple[str, str]],
) -> None:
    (tmp_path / name).write_bytes(content.encode())
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / name), **options}]})
    assert [row["location"] for row in documents(corpus)] == [f"{name} {place}" for place in kept]
    rows = rejected(corpus)
    assert [row["location"] for row in rows] == [f"{name} {place}" for place, _ in bad]
    assert all(column in row["reason"] for row, (_, column) in zip(rows, bad, strict=True))


def test_date_before_year_one_costs_nothing(build: Build, tmp_path: Path) -> None:
    days = pa.array([-800_000 if number == 700 else number for number in range(1000)], pa.date32())
    pq.write_table(
        pa.table({"text": [f"text {number}" for number in range(1000)], "day": days}), tmp_path / "a.parquet"
    )
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.parquet"), "metadata": ["day"]}]})
    rows = documents(corpus)
    assert len(rows) == 1000 and not rejected(corpus)
    assert [row["metadata"] for row in rows[699:702]] == [
        '{"day":"1971-12-01"}',
        '{"day":"-0221-09-04"}',
        '{"day":"1971-12-03"}',
    ]


def test_rows_behind_a_damage_are_counted(build: Build, tmp_path: Path) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": [f"text {number}" for number in range(900)]}), out, row_group_size=300)
    content, group = bytearray(out.getvalue()), pq.read_metadata(out).row_group(1).column(0)
    start = group.dictionary_page_offset or group.data_page_offset
    content[start : start + 20] = bytes(20)
    (tmp_path / "a.parquet").write_bytes(content)
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.parquet")}]})
    (row,) = rejected(corpus)
    assert row["location"] == "a.parquet after row 300" and row["reason"].startswith("column 'text': ")
    assert row["reason"].endswith("; 300 rows are lost")
    statistics = corpus.manifest.statistics
    assert (statistics["documents"], statistics["rejected"], statistics["lost_rows"]) == (600, 1, 300)
    assert INGEST.headline and ", 1 rejected, 300 rows lost" in INGEST.headline(statistics)
