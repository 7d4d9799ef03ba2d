"""The catalog as a DuckDB file."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from pipelines.catalog.export import TABLES, TEXTS, export_catalog
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.step import StepContext
from pipelines.store.store import Store
from pipelines.tokens.samples import SAMPLE, SampleConfig
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "data")
    for i in range(20):
        (tmp_path / f"page{i}.txt").write_text(f"This is page {i}. It says what its number is, which is {i}.")
    (tmp_path / "empty.txt").write_text(" ")
    ingest = IngestConfig(sources=[{"uri": str(tmp_path / "*.txt")}])
    corpus = store.build(INGEST.using("pages", ingest), lambda out, s: INGEST.run({}, ingest, out, StepContext(s)))
    tokenize, sample = TokenizeConfig(encoding="characters"), SampleConfig(context=16)
    step = TOKENIZE.using("pages", tokenize, {"corpus": corpus})
    tokens = store.build(step, lambda out, s: TOKENIZE.run({"corpus": corpus}, tokenize, out, StepContext(s)))
    step = SAMPLE.using("pages", sample, {"tokens": tokens})
    store.build(step, lambda out, s: SAMPLE.run({"tokens": tokens}, sample, out, StepContext(s)))
    return store


def test_file_answers_without_the_catalog(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out" / "catalog.duckdb"
    counts = export_catalog(store, target)
    with duckdb.connect(target, read_only=True) as file:
        names = {row[0] for row in file.execute("SHOW TABLES").fetchall()}
        assert names == {*TABLES, *TEXTS}
        for name, expected in counts.items():
            assert file.execute(f"SELECT count(*) FROM {name}").fetchall() == [(expected,)]
        assert counts["documents"] == 20 and counts["rejected"] == 1 and counts["samples"] > 10
        text = file.execute("SELECT text FROM documents WHERE location LIKE '%page7.txt%'").fetchall()[0][0]
        assert text.startswith("This is page 7.")
        query = """SELECT (SELECT sum(n) FROM token_counts), (SELECT sum(n_tokens) FROM document_tokens),
            (SELECT sum(tokens) FROM shards),
            (SELECT (statistics->>'tokens')::int FROM datasets WHERE kind = 'tokens')"""
        assert len(set(file.execute(query).fetchall()[0])) == 1
        assert file.execute("SELECT n FROM token_counts WHERE text = 'T' AND split = 'train'").fetchall()[0][0] > 10
    assert [path.name for path in target.parent.iterdir()] == ["catalog.duckdb"]


def test_copied_texts_outlive_the_store(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "catalog.duckdb"
    export_catalog(store, target, copy_texts=True)
    shutil.rmtree(store.root)
    with duckdb.connect(target, read_only=True) as file:
        assert file.execute("SELECT count(*), count(DISTINCT text) FROM documents").fetchall() == [(20, 20)]


def test_new_export_replaces_a_file_that_is_being_read(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "catalog.duckdb"
    export_catalog(store, target)
    with duckdb.connect(target, read_only=True) as reader:
        before = reader.execute("SELECT count(*) FROM datasets").fetchall()
        store.remove(store.open("samples/pages"))
        assert export_catalog(store, target)["datasets"] == 2
        assert reader.execute("SELECT count(*) FROM datasets").fetchall() == before == [(3,)]


def test_failed_export_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "data")
    target = tmp_path / "catalog.duckdb"
    export_catalog(store, target)
    before = target.read_bytes()
    monkeypatch.setitem(TABLES, "broken", "SELECT error('disk full')")
    with pytest.raises(InputError, match="disk full"):
        export_catalog(store, target)
    assert target.read_bytes() == before
    assert not list(tmp_path.glob(".catalog*"))


def test_empty_store_exports_empty_tables(tmp_path: Path) -> None:
    assert set(export_catalog(Store(tmp_path / "data"), tmp_path / "catalog.duckdb").values()) == {0}


def test_unwritable_target_is_one_sentence(tmp_path: Path) -> None:
    store = Store(tmp_path / "data")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for target in (tmp_path / "file" / "catalog.duckdb", tmp_path / "folder"):
        with pytest.raises(InputError, match=r"cannot be written \(.*\); name another file"):
            export_catalog(store, target)
    assert [path.name for path in tmp_path.glob(".*")] == []
