"""The SQL catalog: every view from the first day on, every function, pins, and what it must refuse."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.config import Config
from pipelines.catalog.catalog import connect, explain_error
from pipelines.catalog.functions import MACROS, Functions, ngram_hashes, ngrams
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.manifest import SourceFile
from pipelines.store.step import StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens.byte_pairs import named_tokenizer
from pipelines.tokens.characters import CharacterTokenizer
from pipelines.tokens.samples import SAMPLE, SampleConfig
from pipelines.tokens.tokenizer import END_OF_TEXT, Tokenizer

TEXTS = [
    "Jesus wept.",
    "Rejoice evermore.",
    "Pray without ceasing, as one who wept and did not know it until the long night was over.",
    "naïve café 東京 🦙",
    "Pray without ceasing, as one who wept and did not know it until the dawn.",
]


class FreeConfig(Config):
    context: int = 4
    stride: int = 4
    split: str = "validation"
    note: str = ""


def publish(
    store: Store,
    kind: str,
    name: str,
    write: Callable[[Path], Any],
    inputs: dict[str, Dataset] | None = None,
    sources: tuple[SourceFile, ...] = (),
    statistics: dict[str, Any] | None = None,
    **config: Any,
) -> Dataset:
    def run(out: Path, scratch: Path) -> dict[str, Any]:
        write(out)
        return statistics or {}

    step_type = StepType(f"make-{kind}", kind, 1, FreeConfig, run, sources=(lambda _: sources) if sources else None)
    return store.build(step_type.using(name, FreeConfig(**config), inputs), run, built_by={"mlflow_run_id": "r1"})


def corpus(store: Store, name: str = "scripture", texts: list[str] = TEXTS, **config: Any) -> Dataset:
    def write(out: Path) -> None:
        rows = [
            {
                "doc_id": f"d{i}",
                "source": "kjv",
                "location": str(i),
                "split": "validation" if i in (0, 4) else "train",
                "text": text,
                "n_bytes": len(text.encode()),
                "metadata": json.dumps({"book": "John" if i == 0 else "Other"}),
            }
            for i, text in enumerate(texts)
        ]
        pq.write_table(pa.Table.from_pylist(rows), out / "documents.parquet")
        rejected = [{"doc_id": "dx", "source": "kjv", "location": "9", "reason": "empty", "text": ""}]
        pq.write_table(pa.Table.from_pylist(rejected), out / "rejected.parquet")

    return publish(
        store, "corpus", name, write, sources=(SourceFile(name="kjv.jsonl", bytes=3, sha256="ab" * 32),), **config
    )


def tokens(
    store: Store, made_from: Dataset, name: str = "scripture", tokenizer: Tokenizer | None = None, **config: Any
) -> Dataset:
    tokenizer = tokenizer or named_tokenizer("gpt2")

    def write(out: Path) -> None:
        documents = pq.read_table(made_from.path / "documents.parquet").to_pylist()
        for shard, split in enumerate(["train", "validation"]):
            rows = [row for row in documents if row["split"] == split]
            ids, lengths = tokenizer.encode_documents(pa.array([row["text"] for row in rows], pa.string()))
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            batch = pa.record_batch(
                {
                    "doc_id": pa.array([row["doc_id"] for row in rows], pa.string()),
                    "split": pa.array([split] * len(rows), pa.string()),
                    "n_tokens": pa.array(lengths, pa.int64()),
                    "tokens": pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids.astype(tokenizer.dtype))),
                }
            )
            with pa.ipc.new_file(out / f"tokens-{shard:05d}.arrow", batch.schema) as writer:
                writer.write_batch(batch)
        tokenizer.save(out)

    return publish(store, "tokens", name, write, {"corpus": made_from}, **config)


def samples(store: Store, made_from: Dataset, context: int = 4) -> Dataset:
    step = SAMPLE.using(made_from.manifest.name, SampleConfig(context=context), {"tokens": made_from})
    return store.build(
        step, lambda out, scratch: SAMPLE.run({"tokens": made_from}, step.config, out, StepContext(scratch))
    )


def track(home: Path) -> None:
    """A database as MLflow lays it out, as far as the catalog reads it."""
    (home / "mlruns").mkdir()
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as database:
        database.executescript(
            """
            CREATE TABLE experiments (experiment_id INTEGER, name TEXT);
            CREATE TABLE runs (run_uuid TEXT, name TEXT, experiment_id INTEGER, status TEXT, start_time BIGINT,
                end_time BIGINT, lifecycle_stage TEXT, artifact_uri TEXT);
            CREATE TABLE tags (run_uuid TEXT, key TEXT, value TEXT);
            CREATE TABLE params (run_uuid TEXT, key TEXT, value TEXT);
            CREATE TABLE metrics (run_uuid TEXT, key TEXT, step BIGINT, value DOUBLE, timestamp BIGINT, is_nan BOOLEAN);
            CREATE TABLE latest_metrics (run_uuid TEXT, key TEXT, step BIGINT, value DOUBLE, timestamp BIGINT);
            INSERT INTO experiments VALUES (1, 'quickstart');
            INSERT INTO runs VALUES ('r1', 'pretrain', 1, 'FINISHED', 1000, 3000, 'active', 'x'),
                ('r0', 'dropped', 1, 'FINISHED', 1, 2, 'deleted', 'x');
            INSERT INTO tags VALUES ('r1', 'mlflow.parentRunId', 'r9'), ('r1', 'kind', 'model');
            INSERT INTO params VALUES ('r1', 'layers', '4');
            INSERT INTO metrics VALUES ('r1', 'val/loss', 0, 9.5, 1000, 0), ('r1', 'val/loss', 10, 3.5, 2000, 0),
                ('r1', 'val/oops', 0, 0, 1000, 1);
            INSERT INTO latest_metrics VALUES ('r1', 'val/loss', 10, 3.5, 2000), ('r1', 'val/oops', 0, 0, 1000);
            """
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    store = Store(home / "data")
    made = tokens(store, corpus(store))
    samples(store, made)

    def write_evaluation(out: Path) -> None:
        rows = [
            {"system": "model", "metric": "loss", "value": 1.5},
            {"system": "unigram", "metric": "loss", "value": 6.0},
        ]
        pq.write_table(pa.Table.from_pylist(rows), out / "metrics.parquet")

    def write_examples(out: Path) -> None:
        labelled = [{"example_id": f"e{i}", "split": "train", "text": "x", "label": "ham"} for i in range(2)]
        pq.write_table(pa.Table.from_pylist(labelled), out / "examples.parquet")

    publish(store, "examples", "spam", write_examples)
    model = publish(store, "model", "small", lambda out: (out / "config.json").write_text("{}"), {"tokens": made})
    publish(store, "evaluation", "small", write_evaluation, {"model": model})
    track(home)
    return home


@pytest.fixture(scope="module")
def catalog(home: Path) -> duckdb.DuckDBPyConnection:
    return connect(home / "data")


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


VIEWS = [
    "documents",
    "rejected",
    "examples",
    "lessons",
    "tokens",
    "vocabulary",
    "samples",
    "evaluations",
    "predictions",
    "tokens_flat",
    "datasets",
    "manifests",
    "steps",
    "lineage",
    "shards",
    "runs",
    "params",
    "metrics",
]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_exists_and_is_empty_before_anything_is_published(tmp_path: Path, view: str) -> None:
    connection = connect(tmp_path / "data")
    assert rows(connection, f"FROM {view}") == []
    assert rows(connection, f"SELECT count(*) FROM (DESCRIBE {view})")[0][0] >= 2


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_says_what_it_shows(catalog: duckdb.DuckDBPyConnection, view: str) -> None:
    assert rows(catalog, f"SELECT comment FROM duckdb_views() WHERE view_name = '{view}'")[0][0]


def test_documents_come_with_their_metadata(catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT dataset, metadata->>'book', text FROM documents WHERE doc_id = 'd0'"
    assert rows(catalog, query) == [("scripture", "John", "Jesus wept.")]
    assert rows(catalog, "SELECT reason FROM rejected") == [("empty",)]


def test_tokens_are_the_tokenizers(catalog: duckdb.DuckDBPyConnection) -> None:
    end = named_tokenizer("gpt2").end_of_text
    for doc_id, ids in rows(catalog, "SELECT doc_id, tokens FROM tokens"):
        assert ids == [*named_tokenizer("gpt2").encode(TEXTS[int(doc_id[1:])]), end]
    assert rows(catalog, "SELECT typeof(tokens) FROM tokens LIMIT 1") == [("USMALLINT[]",)]


def test_start_is_where_a_document_begins_in_its_shard(catalog: duckdb.DuckDBPyConnection) -> None:
    query = """SELECT bool_and(start = sums - n_tokens)
        FROM (SELECT *, sum(n_tokens) OVER (PARTITION BY shard ORDER BY start) AS sums FROM tokens)"""
    assert rows(catalog, query) == [(True,)]
    query = """SELECT shards.tokens, sum(n_tokens), shards.documents, count(*)
        FROM shards JOIN tokens USING (dataset, shard) GROUP BY ALL"""
    assert all(a == b and c == d for a, b, c, d in rows(catalog, query))


def test_decode_undoes_encode(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(
        catalog, "SELECT decode(tokens) = text || '<|endoftext|>' FROM tokens JOIN documents USING (doc_id)"
    ) == [(True,)] * len(TEXTS)
    assert rows(catalog, "SELECT decode(encode('Jesus wept.')), encode(NULL), decode(NULL)") == [
        ("Jesus wept.", None, None)
    ]


def test_half_a_character_decodes_to_a_replacement(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT decode(encode('🦙')[:1])")[0][0] == "\ufffd"


def test_tokens_flat_has_one_row_a_token(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT count(*) = (SELECT sum(n_tokens) FROM tokens) FROM tokens_flat") == [(True,)]
    query = "SELECT string_agg(text, '|' ORDER BY position) FROM tokens_flat WHERE doc_id = 'd0'"
    assert rows(catalog, query) == [("Jesus| we|pt|.|<|endoftext|>",)]


def test_vocabulary_names_every_token(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT count(*), max(token_id) FROM vocabulary") == [(50257, 50256)]
    assert rows(catalog, "SELECT token_id, bytes FROM vocabulary WHERE special") == [(50256, END_OF_TEXT.encode())]


def test_context_is_the_text_around_a_position(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT context('d0', 1, 1), context('d0', 0, 1)") == [("Jesus wept", "Jesus we")]
    assert rows(catalog, "SELECT count(DISTINCT context(doc_id, 0, 2)) FROM tokens") == [(4,)]  # two begin alike


def test_find_tokens_finds_a_phrase_at_the_start_and_after_a_space(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    texts = ["wept he wept, and wept", "swept", "he wept", "wept"]
    made = tokens(store, corpus(store, texts=texts))
    found = rows(connect(store), "SELECT doc_id, position, n_tokens FROM find_tokens('wept') ORDER BY ALL")
    ids = dict(rows(connect(store), "SELECT doc_id, tokens FROM tokens"))
    tokenizer = named_tokenizer("gpt2")
    wanted = [[*tokenizer.encode(spelled)] for spelled in ("wept", " wept")]
    expected = [
        (doc_id, at, len(spelled))
        for doc_id, each in sorted(ids.items())
        for at in range(len(each))
        for spelled in wanted
        if each[at : at + len(spelled)] == spelled
    ]
    assert found == expected and len(found) == 5
    assert made.manifest.kind == "tokens"


def test_a_phrase_is_not_found_across_two_documents(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    letters = CharacterTokenizer(["a", "b"], {"<|unk|>": 2, END_OF_TEXT: 3})
    tokens(store, corpus(store, texts=["v", "ab", "ba"]), tokenizer=letters)
    connection = connect(store)
    query = "SELECT len(_find(ids::UINTEGER[], 'ab', '')) FROM (VALUES ([1, 0]), ([1, 0, 1]), ([0])) t(ids)"
    assert rows(connection, query) == [(0,), (1,), (0,)]
    assert rows(connection, "SELECT doc_id, position FROM find_tokens('ab')") == [("d1", 0)]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.lists(st.integers(0, 2), max_size=8)), min_size=1, max_size=8),
    st.text("ab", max_size=3),
    st.integers(0, 2),
)
def test_find_is_a_search_of_every_row(lists: list[list[int] | None], phrase: str, skipped: int) -> None:
    tokenizer = SimpleNamespace(encode=lambda text: np.array([" ab".index(letter) for letter in text], np.uint32))
    functions = Functions(SimpleNamespace(tokenizer=lambda _: tokenizer))
    rows = pa.array([*([[1, 2]] * skipped), *lists], pa.list_(pa.uint32()))[skipped:]
    wanted = [*tokenizer.encode(phrase)]
    expected = [
        [
            {"position": i, "n_tokens": len(wanted)}
            for i in range(len(row or ()) if wanted else 0)
            if row and row[i : i + len(wanted)] == wanted
        ]
        for row in lists
    ]
    found = functions.find(rows, pa.array([phrase] * len(rows)), pa.array([""] * len(rows)))
    assert found.to_pylist() == expected


def test_vocabularies_of_more_than_65536_tokens(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    many = [chr(i) for i in range(1, 70_000) if not 0xD800 <= i < 0xE000]
    tokenizer = CharacterTokenizer(many, {"<|unk|>": len(many), END_OF_TEXT: len(many) + 1})
    tokens(store, corpus(store, texts=["", "\U00011000b"]), tokenizer=tokenizer)
    query = (
        "SELECT typeof(tokens), decode(tokens[:2]), tokens[:2] = encode('\U00011000b') FROM tokens WHERE n_tokens = 3"
    )
    assert rows(connect(store), query) == [("UINTEGER[]", "\U00011000b", True)]


def test_too_much_memory_is_one_sentence(home: Path) -> None:
    with connect(home / "data", memory_limit="20MB") as small, pytest.raises(duckdb.Error) as caught:
        small.execute("SELECT list(range || repeat('x', 100)) FROM range(3000000)").fetchall()
    assert explain_error(caught.value).startswith("The query needs more memory than it may use")


def test_concordance_shows_both_sides(catalog: duckdb.DuckDBPyConnection) -> None:
    query = """SELECT "before", found, "after" FROM concordance('without', 1)"""
    assert rows(catalog, query) == [("ray", " without", " ce")] * 2


def test_diff_names_every_document_that_is_not_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    letters = CharacterTokenizer(list("abc"), {"<|unk|>": 3, END_OF_TEXT: 4})
    other = CharacterTokenizer(list("acb"), {"<|unk|>": 3, END_OF_TEXT: 4})
    a = tokens(store, corpus(store, texts=["a", "b", "cc", "aa"]), tokenizer=letters)
    b = tokens(store, corpus(store, texts=["a", "b", "cc"], note="b"), tokenizer=other)
    query = "SELECT doc_id, change, tokens_before, tokens_after FROM diff('tokens@{}', '{}') ORDER BY doc_id"
    forth = rows(connect(store), query.format(a.manifest.fingerprint[:8], "scripture"))
    assert forth == [("d1", "changed", 2, 2), ("d2", "changed", 3, 3), ("d3", "removed", 3, None)]
    back = rows(connect(store), query.format(b.manifest.fingerprint[:8], a))
    assert [row[1] for row in back] == ["changed", "changed", "added"]
    assert rows(connect(store), query.format(a.manifest.fingerprint[:8], a)) == []
    with pytest.raises(duckdb.Error) as caught:
        rows(connect(store), query.format("0000", "tokens"))
    assert explain_error(caught.value).startswith("Nothing called 'tokens@0000'")


def test_ngrams(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT ngrams([1, 2, 3], 2), ngrams([1], 2), ngrams(NULL, 2)") == [
        ([[1, 2], [2, 3]], [], None)
    ]
    assert rows(catalog, "SELECT ngrams([1, 2], 0), ngrams([1, 2], NULL)") == [(None, None)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.lists(st.integers(0, 5), max_size=9)), min_size=1, max_size=9), st.integers(1, 4)
)
def test_ngrams_and_their_hashes_are_every_run_of_every_row(lists: list[list[int] | None], n: int) -> None:
    array = pa.array([[9], *lists], pa.list_(pa.uint32()))[1:]
    sizes = pa.array([n] * len(lists), pa.uint32())
    expected = [row and [row[i : i + n] for i in range(len(row) - n + 1)] for row in lists]
    assert ngrams(array, sizes).to_pylist() == expected
    hashes = ngram_hashes(array, sizes).to_pylist()
    pairs = {
        (tuple(run), h)
        for row, hashed in zip(expected, hashes, strict=True)
        for run, h in zip(row or (), hashed or (), strict=True)
    }
    assert len({run for run, _ in pairs}) == len({h for _, h in pairs}) == len(pairs)


def test_a_token_outside_the_vocabulary_is_one_sentence(catalog: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error) as caught:
        rows(catalog, "SELECT decode([99999999])")
    assert explain_error(caught.value) == "Token id 99999999 lies outside the vocabulary, which has 50,257 tokens."


def test_functions_need_a_tokenizer(tmp_path: Path) -> None:
    connection = connect(tmp_path / "data")
    with pytest.raises(duckdb.Error) as caught:
        rows(connection, "SELECT encode('x')")
    assert explain_error(caught.value).startswith("No tokens dataset is published yet")


def test_lineage_reaches_the_source_files(catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT input_kind, distance, role FROM lineage WHERE output_kind = 'evaluation' ORDER BY distance"
    assert rows(catalog, query) == [
        ("model", 1, "model"),
        ("tokens", 2, "tokens"),
        ("corpus", 3, "corpus"),
        ("source", 4, "source"),
    ]


def test_a_samples_text_is_its_windows(catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT sample_id, start, shard, context, tokens FROM samples WHERE split = 'train' ORDER BY sample_id"
    ids = rows(catalog, "SELECT flatten(list(tokens ORDER BY start)) FROM tokens WHERE shard = 0")[0][0]
    found = rows(catalog, query)
    assert len(found) >= 3
    for sample_id, start, shard, context, dataset in found:
        text = named_tokenizer("gpt2").decode(ids[start : start + context])
        assert (shard, context, dataset) == (0, 4, "scripture")
        assert rows(catalog, f"SELECT sample_text({sample_id}), sample_text({sample_id}, 'scripture')") == [
            (text, text)
        ]
    with pytest.raises(duckdb.Error) as caught:
        rows(catalog, "SELECT sample_text(1000)")
    assert explain_error(caught.value).startswith("There is no sample 1000 in samples/scripture@")


def test_evaluations_name_their_model(catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT model, system, value FROM evaluations WHERE metric = 'loss' ORDER BY value"
    assert rows(catalog, query) == [("small", "model", 1.5), ("small", "unigram", 6.0)]


def test_runs_params_and_metrics_are_mlflows(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT DISTINCT run FROM datasets JOIN runs USING (run_id)") == [("pretrain",)]
    query = "SELECT run, experiment, parent_run_id, tags->>'kind', ended_at - started_at FROM runs"
    assert [row[:4] for row in rows(catalog, query)] == [("pretrain", "quickstart", "r9", "model")]
    assert rows(catalog, "SELECT param, value FROM params") == [("layers", "4")]
    assert rows(catalog, "SELECT step, value, latest FROM metrics WHERE metric = 'val/loss'") == [
        (0, 9.5, False),
        (10, 3.5, True),
    ]
    assert rows(catalog, "SELECT value FROM metrics WHERE metric = 'val/oops'") == [(None,)]


def test_datasets_and_manifests_agree(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(
        catalog, "SELECT count(*) FROM datasets JOIN manifests USING (ref) WHERE manifest->>'digest' = digest"
    ) == [(6,)]
    assert rows(catalog, "SELECT inputs[1] LIKE 'corpus/scripture@%' FROM steps WHERE step = 'make-tokens'") == [
        (True,)
    ]


def test_a_view_shows_the_newest_version_and_a_pin_another(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    letters = CharacterTokenizer(list(" dehlnortwx"), {"<|unk|>": 11, END_OF_TEXT: 12})
    old = tokens(store, corpus(store, texts=["old text"]), tokenizer=letters)
    new = tokens(store, corpus(store, texts=["new text"], note="new"), tokenizer=letters)
    other = tokens(store, corpus(store, "other", ["other text"]), "other", letters)
    assert rows(connect(store), "SELECT dataset, text FROM documents ORDER BY ALL") == [
        ("other", "other text"),
        ("scripture", "new text"),
    ]
    pinned = connect(store, datasets=[f"tokens@{old.manifest.fingerprint[:8]}"])
    assert rows(
        pinned, "SELECT dataset, text, decode(tokens[:8]) FROM documents JOIN tokens USING (dataset, doc_id)"
    ) == [("scripture", "old text", "old text")]
    both = connect(store, datasets=[str(old.ref), str(new.ref)])
    labels = [f"scripture@{dataset.manifest.fingerprint[:12]}" for dataset in (old, new)]
    assert rows(both, "SELECT dataset, decode(tokens[:8], dataset) FROM tokens ORDER BY 2 DESC") == [
        (labels[0], "old text"),
        (labels[1], "new text"),
    ]
    assert rows(both, f'SELECT decode(tokens[:10]) FROM "tokens/other@{other.manifest.fingerprint[:12]}"') == [
        ("other text",)
    ]


def test_a_pin_that_fits_nothing_is_an_error(home: Path) -> None:
    with pytest.raises(InputError, match="Nothing called 'tokens@ffff0000'"):
        connect(home / "data", datasets=["tokens@ffff0000"])


def test_each_dataset_decodes_with_its_own_tokenizer(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    made = corpus(store, texts=["abba", "cab"])
    letters = CharacterTokenizer(["a", "b", "c"], {"<|unk|>": 3, END_OF_TEXT: 4})
    tokens(store, made, "letters", letters)
    tokens(store, made, "pairs")
    query = "SELECT dataset, decode(tokens[:n_tokens - 1], dataset) FROM tokens ORDER BY ALL"
    assert rows(connect(store), query) == [("letters", "abba"), ("letters", "cab"), ("pairs", "abba"), ("pairs", "cab")]
    assert rows(connect(store), "SELECT encode('abc', 'letters')") == [([0, 1, 2],)]
    query = """SELECT dataset, string_agg(text, '|' ORDER BY position) FROM tokens_flat WHERE doc_id = 'd1'
        GROUP BY ALL ORDER BY ALL"""
    assert rows(connect(store), query) == [("letters", "c|a|b|<|endoftext|>"), ("pairs", "c|ab|<|endoftext|>")]


@pytest.mark.parametrize(
    "query",
    [
        "FROM read_csv('/etc/passwd')",
        "FROM read_text('/etc/hostname')",
        "FROM read_blob('{data}/**')",
        "FROM glob('/etc/*')",
        "FROM '/etc/passwd'",
        "COPY (SELECT 1) TO '{data}/stolen.csv'",
        "COPY (SELECT 1) TO '{data}/stolen.csv' (USE_TMP_FILE false)",
        "EXPORT DATABASE '{data}/stolen'",
        "ATTACH '{data}/other.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '900GB'",
        "SET lock_configuration = false",
        "FROM home",
    ],
)
def test_a_query_reaches_nothing_but_the_catalog(home: Path, query: str) -> None:
    connection = connect(home / "data")
    before = sorted(home.rglob("*"))
    with pytest.raises(duckdb.Error) as caught:
        connection.execute(query.format(data=home / "data")).fetchall()
    sentence = explain_error(caught.value, connection)
    assert "\n" not in sentence and sentence.endswith((".", "?")) and "Error:" not in sentence
    assert sorted(home.rglob("*")) == before


def test_a_wrong_name_gets_the_nearest_right_one(catalog: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error) as caught:
        rows(catalog, "FROM document")
    assert explain_error(caught.value, catalog) == "There is no 'document'; did you mean 'documents'?"


def test_a_catalog_sees_runs_and_datasets_that_come_later(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    connection = connect(store)
    assert rows(connection, "SELECT count(*) FROM datasets") == [(0,)]
    corpus(store)
    track(tmp_path)
    assert rows(connection, "SELECT (SELECT count(*) FROM datasets), (SELECT count(*) FROM runs)") == [(1, 1)]


COOKBOOK = re.findall(r"```sql\n(.*?)```", (Path(__file__).parents[3] / "docs" / "sql.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("query", COOKBOOK)
def test_every_query_of_the_cookbook_has_an_answer(catalog: duckdb.DuckDBPyConnection, query: str) -> None:
    assert rows(catalog, query)


@pytest.mark.parametrize("name", MACROS)
def test_every_functions_example_has_an_answer(catalog: duckdb.DuckDBPyConnection, name: str) -> None:
    example = MACROS[name][2].replace("Jesus wept", "wept").replace("And it came to pass", "wept")
    answer = rows(catalog, example.replace("tokens@0123abcd", "scripture"))
    assert answer or name.startswith("diff")  # of a version and itself


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.lists(st.integers(0, 50256), max_size=20)), min_size=1, max_size=20), st.data())
def test_decode_is_the_tokenizers_decode_on_any_slice(lists: list[list[int] | None], data: st.DataObject) -> None:
    tokenizer = named_tokenizer("gpt2")
    at = data.draw(st.integers(0, len(lists) - 1))
    array = pa.array([None, *lists], pa.list_(pa.uint32()))[1:][at:]
    decoded = Functions(SimpleNamespace(tokenizer=lambda _: tokenizer)).decode(array, pa.array([""] * len(array)))
    assert decoded.to_pylist() == [None if ids is None else tokenizer.decode(ids) for ids in lists[at:]]
