from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import several, write_lines

from pipelines.corpus.documents import DOCUMENTS, Corpus
from pipelines.corpus.examples import EXAMPLES_SCHEMA
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import TableWriter, read_rows
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]


def test_large_parts_are_written_in_small_row_groups(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.corpus.parquet.ROW_GROUP_BYTES", 2000)
    path = write_lines(tmp_path / "a.jsonl", several(100))
    (part,) = Corpus(build(INGEST, {"sources": [{"uri": str(path)}]})).parts
    assert pq.ParquetFile(part).num_row_groups >= 10


def test_table_bytes_do_not_depend_on_batch_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.corpus.parquet.ROW_GROUP_BYTES", 700)
    monkeypatch.setattr("pipelines.corpus.parquet.ROW_GROUP_ROWS", 9)
    monkeypatch.setattr("pipelines.corpus.parquet.OTHER_BYTES", 900)
    texts = [{"text": "é" * (i * 37 % 400) or None, "metadata": "m" * (i * 53 % 600)} for i in range(100)]
    rows = [{"doc_id": str(i), **text} for i, text in enumerate(texts)]
    whole = pa.RecordBatch.from_pylist(rows, DOCUMENTS)
    for name, step in {"rows": 0, "one": 1, "some": 7, "all": 100}.items():
        with TableWriter(tmp_path / name, DOCUMENTS) as table:
            for start in range(0, 100, step or 100):
                if step:
                    table.write_batch(whole.slice(start, step))
                else:
                    for row in rows:
                        table.write(row)
        assert (table.rows, table.text_bytes) == (100, sum(len((row["text"] or "").encode()) for row in rows))
    assert len({(tmp_path / name).read_bytes() for name in ("rows", "one", "some", "all")}) == 1
    file = pq.ParquetFile(tmp_path / "all")
    assert file.read().to_batches()[0].schema == DOCUMENTS and file.read().to_pylist() == whole.to_pylist()
    assert file.num_row_groups > 20


def test_table_is_whole_or_absent_with_two_writers(tmp_path: Path) -> None:
    path, schema = tmp_path / "table.parquet", pa.schema([("text", pa.string())])
    rows = [{"text": f"text {i}"} for i in range(2000)]
    with TableWriter(path, schema) as one, TableWriter(path, schema) as other:
        for row in rows:
            one.write(row)
            other.write(row)
        assert not path.exists()
    with pytest.raises(KeyError), TableWriter(tmp_path / "broken.parquet", schema) as broken:
        broken.write(rows[0])
        raise KeyError
    assert list(read_rows(path)) == rows
    assert list(tmp_path.iterdir()) == [path]


def test_long_histories_end_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.corpus.parquet.OTHER_BYTES", 1000)
    rows = [{"text": "short", "history": ["x" * 39, "y"] * (i % 5) or None} for i in range(100)]
    with TableWriter(tmp_path / "rows", EXAMPLES_SCHEMA) as table:
        for row in rows:
            table.write(row)
    file = pq.ParquetFile(tmp_path / "rows")
    assert [row["history"] for row in file.read().to_pylist()] == [row["history"] for row in rows]
    assert file.num_row_groups == 8  # 8,000 bytes
