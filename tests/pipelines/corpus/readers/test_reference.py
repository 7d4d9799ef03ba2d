"""Generated files, read as the field's own readers read them."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import problems, read

from pipelines.corpus.readers.records import Record

CELLS = [
    "",
    "a",
    "two words",
    'a "quoted" word',
    "a, b; c|d\te",
    "two\nlines",
    " blanks ",
    "Mühle",
    "7",
    "'",
    '"',
    "\\n",
]


def fields(content: bytes, name: str, **options: Any) -> list[dict[str, Any]]:
    found = read(content, name, **options)
    assert not problems(found)
    return [record.fields for record in found if isinstance(record, Record)]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_tables_are_read_as_by_pandas_and_duckdb(delimiter: str, quoting: int, tmp_path: Path) -> None:
    rng = random.Random(quoting)
    rows = [[str(number), *rng.choices(CELLS, k=2)] for number in range(300)]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=quoting).writerows([["id", "text", "label"], *rows])  # type: ignore[arg-type]
    path = tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv")
    path.write_bytes(out.getvalue().encode())
    found = fields(path.read_bytes(), path.name)
    by_pandas = pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False)
    assert found == by_pandas.to_dict("records")
    query = "select * from read_csv(?, delim = ?, quote = '\"', escape = '\"', header = true, all_varchar = true)"
    by_duckdb = [[value or "" for value in row] for row in duckdb.execute(query, [str(path), delimiter]).fetchall()]
    assert [list(row.values()) for row in found] == by_duckdb == rows


def _value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return {rng.choice(CELLS): _value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [None, True, rng.randrange(-(2**63), 2**63), rng.random() * 10 ** rng.randrange(9), *CELLS[3:5]][kind]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_is_read_as_by_orjson(name: str, encoding: str) -> None:
    rng = random.Random(1)
    rows = [{"text": rng.choice(CELLS), "more": _value(rng)} for _ in range(300)]
    content = "\n".join(map(json.dumps, rows)) if name == "a.jsonl" else json.dumps(rows, ensure_ascii=False, indent=1)
    expected = orjson.loads(content) if name == "a.json" else [orjson.loads(line) for line in content.splitlines()]
    assert fields(content.encode(encoding), name) == expected == rows


def test_columns_are_read_as_by_pyarrow() -> None:
    rng = random.Random(2)
    texts = [rng.choice([*CELLS, None]) for _ in range(3000)]
    message = pa.struct({"role": pa.string(), "content": pa.large_string()})
    chats = [[{"role": "user", "content": text}] * rng.randrange(4) for text in texts]
    at = [rng.randrange(2**40) for _ in texts]
    table = pa.table(
        {
            "text": texts,
            "large": pa.array(texts, pa.large_string()),
            "view": pa.array(texts, pa.string_view()),
            "word": pa.array(texts).dictionary_encode(),
            "messages": pa.array(chats, pa.list_(message)),
            "map": pa.array([[("a", 1)]] * len(texts), pa.map_(pa.string(), pa.int64())),
            "at": pa.array(at, pa.timestamp("ms", "UTC")),
            "day": pa.array([n % 9999 for n in at], pa.date32()),
            "price": pa.array([n % 999 for n in at], pa.int64()).cast(pa.decimal128(30, 2)),
            "bytes": pa.array([b"\xff\x00"] * len(texts)),
            "n": pa.array([n / 7 for n in at]),
        }
    )
    expected = table.to_pylist()
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=700)
    assert fields(out.getvalue(), "a.parquet") == expected
    (batch,) = table.combine_chunks().to_batches()
    for stream in (False, True):
        out = io.BytesIO()
        with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, batch.schema) as writer:
            writer.write_batch(batch)
        assert fields(out.getvalue(), "a.arrow") == expected
