"""The rows of the views."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.catalog.catalog import connect, explain_error
from pipelines.store.dataset import Dataset
from pipelines.store.kinds import FILE
from pipelines.store.store import Store
from pipelines.tokens.characters import CharacterTokenizer
from pipelines.tokens.tokenizer import END_OF_TEXT
from pipelines.tokens.tokenizers import named_tokenizer


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def test_documents_have_metadata(catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT dataset, metadata->>'book', text FROM documents WHERE doc_id = 'd0'"
    assert rows(catalog, query) == [("scripture", "John", "Jesus wept.")]
    assert rows(catalog, "SELECT reason FROM rejected") == [("empty",)]


def test_file_is_the_location_without_the_place_in_the_file() -> None:
    places = {
        "a b.jsonl": ("line 3", "line 3 to 9", "row 4", "after row 4", "file", "record 2 part 12", "message 1"),
        "x/line 3.txt": ("file", "file part 2"),
        "topics.py": ("entry for", "entry a b to c"),
        "unknown": ("",),
    }
    for file, ends in places.items():
        for end in ends:
            found = duckdb.execute(f"SELECT {FILE['file']} FROM (SELECT ? AS location)", [f"{file} {end}".strip()])
            assert found.fetchall() == [(file,)], end


def test_tables_list_views_and_each_version_has_a_schema(catalog: duckdb.DuckDBPyConnection) -> None:
    shown = [name for (name,) in rows(catalog, "SHOW TABLES")]
    listed = [name for (name,) in rows(catalog, "SELECT name FROM tokenmill.views")]
    assert sorted(listed) == shown and listed[:2] == ["documents", "tokens"]
    assert not [name for name in shown if "/" in name or name.startswith("_")]
    ((ref,),) = rows(catalog, "SELECT ref FROM datasets WHERE kind = 'tokens'")
    assert rows(catalog, f'SELECT count(*) FROM versions."{ref}"') == rows(catalog, "SELECT count(*) FROM tokens")
    with pytest.raises(duckdb.Error) as caught:
        rows(catalog, f'FROM "{ref}"')
    assert explain_error(caught.value, catalog).endswith(f'a schema of its own: versions."{ref}".')


def test_tokens_equal_those_of_the_tokenizer(catalog: duckdb.DuckDBPyConnection) -> None:
    end = named_tokenizer("gpt2").end_of_text
    for text, ids in rows(catalog, "SELECT text, tokens FROM tokens JOIN documents USING (dataset, doc_id)"):
        assert ids == [*named_tokenizer("gpt2").encode(text), end]
    assert rows(catalog, "SELECT typeof(tokens) FROM tokens LIMIT 1") == [("USMALLINT[]",)]


def test_start_is_the_place_of_a_document_in_its_shard(catalog: duckdb.DuckDBPyConnection) -> None:
    query = """SELECT bool_and(start = sums - n_tokens)
        FROM (SELECT *, sum(n_tokens) OVER (PARTITION BY shard ORDER BY start) AS sums FROM tokens)"""
    assert rows(catalog, query) == [(True,)]
    query = """SELECT shards.tokens, sum(n_tokens), shards.documents, count(*)
        FROM shards JOIN tokens USING (dataset, shard) GROUP BY ALL"""
    assert all(a == b and c == d for a, b, c, d in rows(catalog, query))


def test_tokens_flat_has_one_row_a_token(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT count(*) = (SELECT sum(n_tokens) FROM tokens) FROM tokens_flat") == [(True,)]
    query = "SELECT string_agg(text, '|' ORDER BY position) FROM tokens_flat WHERE doc_id = 'd0'"
    assert rows(catalog, query) == [("Jesus| we|pt|.|<|endoftext|>",)]


def test_vocabulary_has_every_token(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT count(*), max(token_id) FROM vocabulary") == [(50257, 50256)]
    assert rows(catalog, "SELECT token_id, bytes FROM vocabulary WHERE special") == [(50256, END_OF_TEXT.encode())]


def test_vocabulary_of_more_than_65536_tokens(
    tmp_path: Path, corpus: Callable[..., Dataset], tokens: Callable[..., Dataset]
) -> None:
    store = Store(tmp_path / "data")
    many = [chr(i) for i in range(1, 70_000) if not 0xD800 <= i < 0xE000]
    tokenizer = CharacterTokenizer(many, {"<|unk|>": len(many), END_OF_TEXT: len(many) + 1})
    tokens(store, corpus(store, texts=["", "\U00011000b"]), tokenizer=tokenizer)
    query = (
        "SELECT typeof(tokens), decode(tokens[:2]), tokens[:2] = encode('\U00011000b') FROM tokens WHERE n_tokens = 3"
    )
    assert rows(connect(store), query) == [("UINTEGER[]", "\U00011000b", True)]


def test_evaluations_name_their_model(catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT model, system, value FROM evaluations WHERE model = 'small' ORDER BY value"
    assert rows(catalog, query) == [("small", "model", 1.5), ("small", "unigram", 6.0)]


def test_each_task_has_a_view_of_its_predictions(tmp_path: Path, publish: Callable[..., Dataset]) -> None:
    store = Store(tmp_path / "data")
    for task, own in {"language": {"bytes": 3}, "classification": {"tf_idf_label": "ham"}}.items():
        table = pa.Table.from_pylist([{"item": task, "model_loss": 1.5, **own}])
        publish(
            store, "evaluation", task, lambda out, table=table: pq.write_table(table, out / "predictions.parquet"),
            statistics={"task": task},
        )  # fmt: skip
    catalog = connect(store)
    assert catalog.execute("SELECT item, bytes FROM language_predictions").fetchall() == [("language", 3)]
    assert catalog.execute("SELECT item, tf_idf_label FROM classification_predictions").fetchall() == [
        ("classification", "ham")
    ]
    everything = catalog.execute("FROM predictions ORDER BY item")
    assert [column[0] for column in everything.description][-4:] == [
        "truth",
        "model_label",
        "model_answer",
        "model_loss",
    ]
    assert [row[2] for row in everything.fetchall()] == ["classification", "language"]
