from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import documents, rejected, several, write_lines

from pipelines.corpus.ingest.batches import Batch
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import read_rows
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store

Build = Callable[..., Dataset]


def test_consecutive_records_of_a_group_are_joined(build: Build, tmp_path: Path) -> None:
    rows = [("Genesis", 1, "a"), ("Genesis", 1, "b"), ("Genesis", 2, "c"), ("Exodus", 2, "d")]
    lines = [json.dumps({"book": book, "chapter": chapter, "text": text}) for book, chapter, text in rows]
    (tmp_path / "verses.jsonl").write_text("\n".join(lines))
    source = {"uri": str(tmp_path / "verses.jsonl"), "group_by": ["book", "chapter"], "separator": " / "}
    kept = documents(build(INGEST, {"sources": [source]}))
    assert [row["text"] for row in kept] == ["a / b", "c", "d"]
    assert kept[0]["location"] == "verses.jsonl line 1 to 2"
    assert json.loads(kept[2]["metadata"]) == {"book": "Exodus", "chapter": 2}


def test_turns_of_a_conversation_make_one_text(build: Build, tmp_path: Path) -> None:
    talks: list[Any] = [
        [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello, you."}],
        [{"from": "human", "value": "Bye."}, {"from": "gpt", "value": "Goodbye."}],
        ["How are you?", "Fine."],
        [{"role": "user", "content": None}],
        [],
    ]
    path = tmp_path / "talks.jsonl"
    path.write_text("\n".join(json.dumps({"talk": talk}) for talk in talks))
    corpus = build(INGEST, {"sources": [{"uri": str(path), "text": "talk"}]})
    assert [row["text"] for row in documents(corpus)] == [
        "Hello.\n\nHello, you.",
        "Bye.\n\nGoodbye.",
        "How are you?\n\nFine.",
    ]
    assert [row["reason"] for row in rejected(corpus)] == ["column 'talk' holds list, not text"] * 2


def test_missing_column_names_the_others(build: Build, store: Store, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["fine"], title="x")
    with pytest.raises(InputError, match="line 1: no column 'body'; there are text, title"):
        build(INGEST, {"sources": [{"uri": str(path), "text": "body"}]})
    with pytest.raises(InputError, match="no column 'page' to group by"):
        build(INGEST, {"sources": [{"uri": str(path), "group_by": ["page"]}]})
    assert not store.list()


def test_file_changed_while_read_is_an_error(
    build: Build, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(tmp_path / "a.jsonl", several(3))
    real = Batch.add_many

    def add_many(*args: Any) -> Any:
        path.touch()
        return real(*args)

    monkeypatch.setattr(Batch, "add_many", add_many)
    with pytest.raises(InputError, match="changed while it was read"):
        build(INGEST, {"sources": [{"uri": str(path)}]})
    assert not store.list()


def test_group_that_is_too_large_costs_itself_only(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.corpus.ingest.texts.MAX_WHOLE", 100)
    lines = [json.dumps({"text": f"{'x' * 40} {i}", "g": i // 3}) for i in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl"), "group_by": ["g"]}]})
    assert [row["location"] for row in documents(corpus)] == ["a.jsonl line 4 to 5"]
    (row,) = read_rows(corpus.file("rejected.parquet"))
    assert (row["reason"], row["location"]) == ("a group of 126 characters; the limit is 100", "a.jsonl line 1")


NESTED = "[" * 990 + "]" * 990


@pytest.mark.parametrize(
    ("line", "options", "reason"),
    [
        ('{"text": %s}', {}, "column 'text' holds list, not text"),
        ('{"text": "bad", "n": %s}', {"metadata": ["n"]}, "the metadata are nested too deeply"),
        ('{"text": "bad", "n": %s}', {"group_by": ["n"]}, "the columns to group by are nested too deeply"),
    ],
)
def test_deeply_nested_values_cost_their_record(
    build: Build, tmp_path: Path, line: str, options: dict[str, Any], reason: str
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good", "n": 1}\n' + line.replace("%s", NESTED))
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.jsonl"), **options}]})
    assert [row["text"] for row in documents(corpus)] == ["good"]
    (row,) = read_rows(corpus.file("rejected.parquet"))
    assert (row["reason"], row["location"]) == (reason, "a.jsonl line 2")
