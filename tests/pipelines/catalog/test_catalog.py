"""The SQL catalog: its views from the first day on, its help, and everything that it must refuse."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from gpt.config import Config
from pipelines.catalog.catalog import connect, explain_error
from pipelines.report.graph import to_svg
from pipelines.store.dataset import Dataset
from pipelines.store.kinds import KINDS, Colour, Kind, View
from pipelines.store.kinds import VIEWS as VIEWS_BY_NAME
from pipelines.store.step import StepType
from pipelines.store.store import Store
from pipelines.tokens.characters import CharacterTokenizer
from pipelines.tokens.tokenizer import END_OF_TEXT

pytestmark = pytest.mark.integration


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
    "language_predictions",
    "classification_predictions",
    "instruction_predictions",
    "choice_predictions",
    "tokens_flat",
    "windows",
    "readings",
    "models",
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
def test_empty_store_has_every_view(tmp_path: Path, view: str) -> None:
    connection = connect(tmp_path / "data")
    assert rows(connection, f"FROM {view}") == []
    assert rows(connection, f"SELECT count(*) FROM (DESCRIBE {view})")[0][0] >= 2


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_has_a_comment(catalog: duckdb.DuckDBPyConnection, view: str) -> None:
    assert rows(catalog, f"SELECT comment FROM duckdb_views() WHERE view_name = '{view}'")[0][0]


def test_runs_params_and_metrics_come_from_mlflow(catalog: duckdb.DuckDBPyConnection) -> None:
    assert rows(catalog, "SELECT DISTINCT run FROM datasets JOIN runs USING (run_id)") == [("pretrain",)]
    query = "SELECT run, experiment, parent_run_id, tags->>'kind', ended_at - started_at FROM runs"
    assert [row[:4] for row in rows(catalog, query)] == [("pretrain", "quickstart", "r9", "model")]
    assert rows(catalog, "SELECT param, value FROM params") == [("layers", "4")]
    assert rows(catalog, "SELECT step, value, latest FROM metrics WHERE metric = 'val/loss'") == [
        (0, 9.5, False),
        (10, 3.5, True),
    ]
    assert rows(catalog, "SELECT value FROM metrics WHERE metric = 'val/oops'") == [(None,)]


def test_open_catalog_sees_later_runs_and_datasets(
    tmp_path: Path, corpus: Callable[..., Dataset], track: Callable[[Path], None]
) -> None:
    store = Store(tmp_path / "data")
    connection = connect(store)
    assert rows(connection, "SELECT count(*) FROM datasets") == [(0,)]
    corpus(store)
    track(tmp_path)
    assert rows(connection, "SELECT (SELECT count(*) FROM datasets), (SELECT count(*) FROM runs)") == [(1, 1)]


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
def test_query_reaches_only_the_catalog(home: Path, query: str) -> None:
    connection = connect(home / "data")
    before = sorted(home.rglob("*"))
    with pytest.raises(duckdb.Error) as caught:
        connection.execute(query.format(data=home / "data")).fetchall()
    sentence = explain_error(caught.value, connection)
    assert "\n" not in sentence and sentence.endswith((".", "?")) and "Error:" not in sentence
    assert sorted(home.rglob("*")) == before


def test_too_much_memory_is_one_sentence(home: Path) -> None:
    with connect(home / "data", memory_limit="20MB") as small, pytest.raises(duckdb.Error) as caught:
        small.execute("SELECT list(range || repeat('x', 100)) FROM range(3000000)").fetchall()
    assert explain_error(caught.value).startswith("The query needs more memory than it may use")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("FROM document", "There is no 'document'; did you mean 'documents'?"),
        ("FROM context('d0', 1, 1)", "context() is a function; call it so: SELECT context(doc_id, 40, 8, dataset)"),
        ("SELECT n_token FROM tokens", 'There is no column "n_token" here; did you mean "n_tokens",'),
    ],
)
def test_wrong_name_suggests_the_nearest(catalog: duckdb.DuckDBPyConnection, query: str, sentence: str) -> None:
    with pytest.raises(duckdb.Error) as caught:
        rows(catalog, query)
    assert explain_error(caught.value, catalog).startswith(sentence)


PAGE = (Path(__file__).parents[3] / "docs" / "sql.md").read_text()
COOKBOOK = [
    re.sub(r"quickstart(-spam)?/\d", lambda m: "sorter" if m[1] else "small", query)
    for query in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
]


@pytest.mark.parametrize("query", COOKBOOK)
def test_every_query_of_the_docs_has_an_answer(catalog: duckdb.DuckDBPyConnection, query: str) -> None:
    assert rows(catalog, query)


def test_new_kind_needs_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = View("suffixes", "*.arrow", "position BIGINT, missing VARCHAR", "Suffixes.", export="table")
    monkeypatch.setitem(VIEWS_BY_NAME, "suffixes", view)
    monkeypatch.setitem(KINDS, "index", Kind("index", Colour("#123456", "blue"), (view,), counts=("suffixes",)))

    def run(out: Path, scratch: Path) -> dict[str, Any]:
        table = pa.table({"position": [3, 1]})
        with pa.ipc.new_file(out / "index.arrow", table.schema) as writer:
            writer.write_table(table)
        return {"suffixes": 2}

    store = Store(tmp_path / "data")
    made = store.build(StepType("index", "index", 1, Config, run).using("letters", Config()), run)
    assert rows(connect(store), "FROM suffixes") == [("letters", 3, None), ("letters", 1, None)]
    assert "#123456" in to_svg(made, [made]) and "2 suffixes" in to_svg(made, [made])


@pytest.fixture(scope="module")
def catalogs(
    tmp_path_factory: pytest.TempPathFactory,
    corpus: Callable[..., Dataset],
    tokens: Callable[..., Dataset],
    samples: Callable[..., Dataset],
    language_model: Callable[..., Dataset],
) -> dict[str, duckdb.DuckDBPyConnection]:
    """Catalogs of three corpora, two of them the same text, and two tokenizers: all of it, and each dataset alone."""
    store = Store(tmp_path_factory.mktemp("mixed") / "data")
    letters = CharacterTokenizer(list(" abcdefghijklmnopqrstuvwxyz"), {"<|unk|>": 27, END_OF_TEXT: 28})
    texts = ["and he wept and wept again", "the night was long and cold", "and he slept and woke again"] * 2
    names = {"pairs": None, "letters": letters, "other": letters}
    for name, tokenizer in names.items():
        own = [f"{text} {i}" for i, text in enumerate(texts)] if name == "other" else texts
        made = samples(store, tokens(store, corpus(store, name, texts=own), f"{name}-tokens", tokenizer))
        language_model(store, made, f"{name}-tokens")
    kinds = ("tokens", "samples", "model", "evaluation")
    alone = {name: connect(store, datasets=[f"{kind}/{name}-tokens" for kind in kinds]) for name in names}
    return {"": connect(store), **alone}


APART = [query for query in COOKBOOK if re.match(r"[^,]*\b(dataset|[rp]\.model),", query)]


@pytest.mark.parametrize("query", APART)
def test_queries_of_the_docs_keep_datasets_apart(catalogs: dict[str, duckdb.DuckDBPyConnection], query: str) -> None:
    query = re.sub(r"limit \d+", "", query)
    found = rows(catalogs[""], query)
    for name in list(catalogs)[1:]:
        mine = [row for row in found if row[0] in (name, f"{name}-tokens")]
        assert Counter(map(str, mine)) == Counter(map(str, rows(catalogs[name], query)))


def test_first_questions_have_a_query_that_keeps_datasets_apart() -> None:
    for question in (
        "How long are the documents, in tokens?",
        "Which word pairs are the most frequent?",
        "How many tokens has a document of each file?",
        "Which documents contain this phrase?",
        "Has the model seen the held-out text before?",
        "Which tokens are rare?",
        "Which documents are the longest?",
        "How often has a model read each document?",
        "Which windows contain this document?",
        "Which held-out documents does a model find the hardest?",
    ):
        _, _, section = PAGE.partition(f"## {question}\n")
        assert re.findall(r"```sql\n(.*?)```", section, re.DOTALL)[0] in APART, question
