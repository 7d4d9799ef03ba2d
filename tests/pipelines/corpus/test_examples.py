from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.corpus.documents import SPLITS, SplitConfig, document_id, split_of
from pipelines.corpus.examples import EXAMPLES, Example, Examples, ExamplesConfig
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.parquet import read_rows
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext
from pipelines.store.store import Store

Build = Callable[..., Dataset]


def all_rows(dataset: Dataset) -> list[Example]:
    return [example for split in SPLITS for example in Examples(dataset).rows(split)]


def test_labelled_texts_from_a_table_without_a_header(build: Build, tmp_path: Path) -> None:
    (tmp_path / "sms.csv").write_text("ham\tgood  day\nspam\tWIN \u00a31000\nham\tgood  day\nham\t\n")
    source = {"uri": str(tmp_path / "sms.csv"), "format": "tsv", "columns": ["label", "text"], "label": "label"}
    dataset = build(EXAMPLES, {"sources": [source]})
    assert sorted((row.label, row.text) for row in all_rows(dataset)) == [("ham", "good  day"), ("spam", "WIN £1000")]
    reasons = [(row["reason"], row["location"]) for row in read_rows(dataset.file("rejected.parquet"))]
    assert reasons == [("column 'text' is empty", "sms.csv line 4"), ("exact duplicate", "sms.csv line 3")]
    assert dataset.manifest.statistics["label_ham"] == 1


def test_instructions_may_come_with_an_input(build: Build, tmp_path: Path) -> None:
    rows = [{"q": "Add", "x": "1 2", "a": "3"}, {"q": "Greet", "x": "", "a": "Hello", "s": "Be kind."}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    source = {"uri": str(tmp_path / "a.json"), "instruction": "q", "input": "x", "response": "a", "system": "s"}
    found = {row.instruction: row for row in all_rows(build(EXAMPLES, {"sources": [source]}))}
    assert (found["Add"].text, found["Add"].input, found["Add"].response) == ("Add\n\n1 2", "1 2", "3")
    assert (found["Greet"].text, found["Greet"].input) == ("Greet", "")
    assert (found["Add"].system, found["Greet"].system) == (None, "Be kind.")


CHAT = 'conversations:\n- [Hi, Hello, "How are you?", Fine]\n- [Hi, Good day]\n'


def test_turns_make_whole_conversations_replies_or_answers(build: Build, tmp_path: Path) -> None:
    (tmp_path / "chat.yml").write_text(CHAT)
    source = {"uri": str(tmp_path / "chat.yml"), "conversation": "messages"}

    def found(**more: Any) -> set[tuple[Any, ...]]:
        rows = all_rows(build(EXAMPLES, {"sources": [source | more]}))
        return {(row.instruction, row.response, row.history) for row in rows}

    whole = {("How are you?", "Fine", ("Hi", "Hello")), ("Hi", "Good day", ())}
    assert found() == whole
    assert found(turns="replies") == whole | {("Hi", "Hello", ())}
    assert found(turns="answers") == {("Hi", answer, ()) for answer in ("Hello", "How are you?", "Fine", "Good day")}


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_malformed_conversations_are_rejected_with_a_reason(build: Build, tmp_path: Path) -> None:
    system, hi, hello = message("system", "Be kind."), message("user", "Hi"), message("assistant", "Hello")
    conversations = [
        [system, hi, hello, message("user", "Bye"), message("assistant", "Farewell")],
        [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
        [hi, hi, hello],
        [hello, hi],
        [hi, hello, hi],
        [hi, message("tool", "42")],
        [hi, message("assistant", " ")],
        [hi, message("assistant", [{"type": "image"}])],
        [hi, "Hello"],
        [hi],
        "Hi",
    ]
    lines = "".join(json.dumps({"messages": each}) + "\n" for each in conversations)
    (tmp_path / "chat.jsonl").write_text(lines)
    dataset = build(EXAMPLES, {"sources": [{"uri": str(tmp_path / "chat.jsonl"), "conversation": "messages"}]})
    first, second = sorted(all_rows(dataset), key=lambda row: -len(row.history))
    assert (first.system, first.history, first.instruction, first.response) == (
        "Be kind.",
        ("Hi", "Hello"),
        "Bye",
        "Farewell",
    )
    assert (second.system, second.history, second.instruction, second.response) == (None, (), "Hi", "Hello")
    reasons = [(row["reason"], row["location"]) for row in read_rows(dataset.file("rejected.parquet"))]
    assert reasons == [
        ("turn 2 is the user's, where the assistant's was due", "chat.jsonl line 3"),
        ("turn 1 is the assistant's, where the user's was due", "chat.jsonl line 4"),
        ("the last turn has no answer", "chat.jsonl line 5"),
        ("turn 2 has the role 'tool'; it must be system, user or assistant", "chat.jsonl line 6"),
        ("turn 2 has no text", "chat.jsonl line 7"),
        ("turn 2 has the part 'image'; only text is read", "chat.jsonl line 8"),
        ("turn 2 is a text, unlike the first", "chat.jsonl line 9"),
        ("fewer than two turns", "chat.jsonl line 10"),
        ("the conversation is not a list of turns", "chat.jsonl line 11"),
    ]


@pytest.mark.parametrize("turns", ["replies", "answers"])
def test_conversation_of_many_examples_has_a_limit(build: Build, tmp_path: Path, turns: str) -> None:
    chats = [["Hi", "Hello"], [f"turn {i}" for i in range(20_000)]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"c": chat}) + "\n" for chat in chats))
    source = {"uri": str(tmp_path / "a.jsonl"), "conversation": "c", "turns": turns}
    dataset = build(EXAMPLES, {"sources": [source]})
    assert [row.instruction for row in all_rows(dataset)] == ["Hi"]
    (row,) = read_rows(dataset.file("rejected.parquet"))
    assert row["reason"] == f"20,000 turns; with turns = '{turns}', there may be 1,000"


def test_parts_of_a_conversation_share_a_split(build: Build, tmp_path: Path) -> None:
    (tmp_path / "chat.yml").write_text(
        "conversations:\n" + "".join(f"- [a{i}, b{i}, c{i}, d{i}, e{i}, f{i}]\n" for i in range(30))
    )
    source = {"uri": str(tmp_path / "chat.yml"), "conversation": "messages", "turns": "replies"}
    rows = all_rows(build(EXAMPLES, {"sources": [source], "split": {"validation": 0.3, "test": 0.3}}))
    sides: dict[str, set[str]] = {}
    for row in rows:
        sides.setdefault((row.response or "")[1:], set()).add(row.split)
    assert len(rows) == 90 and all(len(side) == 1 for side in sides.values())
    assert set.union(*sides.values()) == set(SPLITS)


def test_text_has_one_split_and_shares_it_with_corpora(build: Build, tmp_path: Path) -> None:
    rows = [{"text": f"question {i % 30}", "label": str(i // 30)} for i in range(90)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = {"validation": 0.3, "test": 0.2}
    found = all_rows(build(EXAMPLES, {"sources": [{"uri": str(path), "label": "label"}], "split": split}))
    sides = {row.text: row.split for row in found}
    assert len(found) == 90 and all(sides[row.text] == row.split for row in found)
    assert set(sides.values()) == set(SPLITS)
    corpus = build(INGEST, {"sources": [{"uri": str(path)}], "split": split})
    for row in read_rows(corpus.path / "documents/part-00000.parquet"):
        assert row["split"] == sides[row["text"]] == split_of(document_id(row["text"]), SplitConfig(**split))


@pytest.mark.parametrize("near", [None, 0.8])
def test_few_examples_have_every_split(build: Build, warnings: Any, tmp_path: Path, near: float | None) -> None:
    rows = [{"text": f"{prose(i)}", "label": "ab"[i % 2]} for i in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    config = {"sources": [{"uri": str(tmp_path / "a.jsonl"), "label": "label"}], "near_duplicates": near}
    dataset = build(EXAMPLES, config | {"split": {"validation": 0.01, "test": 0.01}})
    statistics = dataset.manifest.statistics
    assert [statistics[f"examples_{split}"] for split in SPLITS] == [3, 1, 1] and len(all_rows(dataset)) == 5
    assert statistics["rejected"] == 1 and any("leave validation and test empty" in each for each in warnings.sentences)


def test_values_that_are_no_text_are_rejected(build: Build, tmp_path: Path) -> None:
    rows = [
        {"text": "one", "label": 1},
        {"text": ["two"], "label": 2},
        {"text": "three", "label": {"a": 3}},
        {"text": "four", "label": None},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = build(EXAMPLES, {"sources": [{"uri": str(tmp_path / "a.jsonl"), "label": "label"}]})
    assert [(each.text, each.label) for each in all_rows(made)] == [("one", "1")]
    reasons = [row["reason"] for row in read_rows(made.file("rejected.parquet"))]
    assert reasons == [
        "column 'text' holds list, not text",
        "column 'label' holds dict, not text",
        "column 'label' is empty",
    ]


def test_missing_values_are_no_text_and_no_label(build: Build, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"q": "a", "x": NaN, "r": "1"}\n{"q": "b", "x": null, "r": "2"}\n{"q": "c", "x": "nan", "r": NaN}\n'
    )
    source = {"uri": str(tmp_path / "a.jsonl"), "instruction": "q", "input": "x", "response": "r"}
    made = build(EXAMPLES, {"sources": [source]})
    assert {(row.text, row.input, row.response) for row in all_rows(made)} == {("a", "", "1"), ("b", "", "2")}
    assert [row["reason"] for row in read_rows(made.file("rejected.parquet"))] == ["column 'r' is empty"]

    (tmp_path / "b.jsonl").write_text(
        '{"text": "a", "label": NaN}\n{"text": "b", "label": 1}\n{"text": "c", "label": 1.0}\n'
        '{"text": "d", "label": "1 "}\n{"text": "e", "label": false}\n{"text": 7, "label": 0}\n'
    )
    made = build(EXAMPLES, {"sources": [{"uri": str(tmp_path / "b.jsonl"), "label": "label"}]})
    labels = {row.text: row.label for row in all_rows(made)}
    assert labels == {"b": "1", "c": "1", "d": "1", "e": "false", "7": "0"}
    (rejected,) = read_rows(made.file("rejected.parquet"))
    assert (rejected["reason"], rejected["location"]) == ("column 'label' is empty", "b.jsonl line 1")


def test_conversation_in_parquet_is_a_list_or_json(build: Build, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi", "weight": None}, {"role": "assistant", "content": "Yo", "weight": 1}]
    columns = {"list": [turns], "json": [json.dumps(turns)], "prompt": ["Be kind."]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    for column in ("list", "json"):
        source = {"uri": str(tmp_path / "a.parquet"), "conversation": column, "system": "prompt"}
        (row,) = all_rows(build(EXAMPLES, {"sources": [source]}))
        assert (row.instruction, row.response, row.system) == ("Hi", "Yo", "Be kind.")


def test_column_that_is_not_read_causes_a_warning(build: Build, warnings: Any, tmp_path: Path) -> None:
    rows = [{"instruction": f"Add {i}", "input": "1 2" * (i % 2), "output": "3", "system": ""} for i in range(10)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    source = {"uri": str(tmp_path / "a.json"), "response": "output"}
    build(EXAMPLES, {"sources": [source]})
    assert warnings.sentences == [
        "5 records of 'a.json' have a column 'input' that is not read; input = 'input' reads it"
    ]
    warnings.sentences.clear()
    build(EXAMPLES, {"sources": [source | {"input": "input"}]})
    assert warnings.sentences == []


def test_swapped_columns_are_noticed(build: Build, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"The parcel {i} came late. " * 12, "label": ("a", "b")[i % 2]}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = {"uri": str(tmp_path / "a.jsonl"), "text": "label", "label": "text"}
    with pytest.raises(InputError, match="40 examples, 40 labels"):
        build(EXAMPLES, {"sources": [source]})


def test_long_and_hostile_labels_are_kept_whole(build: Build, tmp_path: Path) -> None:
    labels = [
        "x" * 300 + "1",
        "x" * 300 + "2",
        "a/b",
        "../..",
        "🙂",
        "a\x1b[31mb",
        "\x00",
        "'; DROP TABLE",
        "=1+1",
        "a\nb",
    ]
    rows = [{"text": f"text {i} {label}", "label": label} for i in range(2) for label in labels]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = build(EXAMPLES, {"sources": [{"uri": str(tmp_path / "a.jsonl"), "label": "label"}]})
    assert {row.label for row in all_rows(made)} == set(labels)
    names = [name for name in made.manifest.statistics if name.startswith("label_")]
    assert len(names) == len(labels) and max(map(len, names)) < 120


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(max_size=3), some, max_size=3),
    max_leaves=8,
)
roles = st.sampled_from(["user", "assistant", "system", "tool", "human", None, 1])
messages = st.lists(st.fixed_dictionaries({"role": roles, "content": values}), max_size=4)
cells = values | messages | messages.map(json.dumps)


some_records = st.lists(st.dictionaries(st.sampled_from(["text", "label", "input", "c"]), cells), max_size=6)


@pytest.mark.parametrize("kind", ["label", "response", "conversation"])
@given(records=some_records)
@settings(max_examples=12, suppress_health_check=list(HealthCheck), deadline=None)
def test_each_record_is_an_example_or_rejected(kind: str, records: list[Any], tmp_path_factory: Any) -> None:
    check_each_record(kind, records, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["label", "response", "conversation"])
@given(records=some_records)
@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
def test_each_of_many_records_is_an_example_or_rejected(kind: str, records: list[Any], tmp_path_factory: Any) -> None:
    check_each_record(kind, records, tmp_path_factory.mktemp("fuzz"))


def check_each_record(kind: str, records: list[Any], folder: Path) -> None:
    good = {"text": "good", "label": "good", "c": ["Hi", "Hello"]}
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [good, *records]))
    columns = {"label": {}, "response": {"instruction": "text", "input": "input"}, "conversation": {}}[kind]
    named = {"label": "label", "response": "label", "conversation": "c"}
    source = {"uri": str(folder / "a.jsonl"), kind: named[kind], **columns}
    config = ExamplesConfig.model_validate({"sources": [source]})
    statistics = EXAMPLES.run({}, config, folder, StepContext(folder))
    assert statistics["examples"] + statistics["rejected"] == 1 + len(records)
    assert pq.read_metadata(folder / "examples.parquet").num_rows == statistics["examples"] > 0


def test_missing_label_column_names_the_others(build: Build, store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,kind\nhello,ham\n")
    with pytest.raises(InputError, match="no column 'label'; there are text, kind"):
        build(EXAMPLES, {"sources": [{"uri": str(tmp_path / "a.csv"), "label": "label"}]})
    assert not store.list()


@pytest.mark.parametrize("columns", [{}, {"label": "label", "response": "answer"}])
def test_source_has_exactly_one_kind(columns: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of label, response and conversation"):
        ExamplesConfig.model_validate({"sources": [{"uri": "a.csv", **columns}]})


def prose(seed: int, changed: int = 0) -> str:
    words = random.Random(seed).choices([f"word{i}" for i in range(300)], k=60)
    return " ".join(words[: 60 - changed] + [f"new{i}" for i in range(changed)])


def test_near_duplicates_share_a_split_and_equal_answers_are_dropped(build: Build, tmp_path: Path) -> None:
    rows: list[dict[str, str]] = []
    for i in range(40):
        rows += [{"instruction": prose(i), "response": prose(i + 100)}]
        rows += [{"instruction": prose(i, changed=3), "response": prose(i + 100, changed=2)}]  # the same in other words
        rows += [{"instruction": prose(i, changed=3), "response": prose(i + 200)}]  # another answer
    rows.append(rows[0])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"uri": str(tmp_path / "a.jsonl"), "response": "response"}
    config = {"sources": [source], "split": {"validation": 0.3, "test": 0.3}, "near_duplicates": 0.6}
    dataset = build(EXAMPLES, config)
    found = all_rows(dataset)
    sides: dict[str, set[str]] = {}
    for row in found:
        sides.setdefault(row.text[:100], set()).add(row.split)
    assert len(found) == 80 and len(sides) == 40
    assert all(len(splits) == 1 for splits in sides.values()) and set().union(*sides.values()) == set(SPLITS)
    rejected = list(read_rows(dataset.file("rejected.parquet")))
    assert [row["reason"] for row in rejected] == ["near duplicate"] * 40 + ["exact duplicate"]
    ids = {row.text: row.id for row in found if row.response == rows[0]["response"]}
    assert rejected[0]["kept"] == ids[rows[0]["instruction"]] and 0.6 <= rejected[0]["similarity"] < 1

    assert len(all_rows(build(EXAMPLES, config | {"near_duplicates": None}))) == 120


def test_other_label_is_no_near_duplicate(build: Build, tmp_path: Path) -> None:
    lines = [{"text": prose(1), "label": "ham"}, {"text": prose(1, changed=2), "label": "spam"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"uri": str(tmp_path / "a.jsonl"), "label": "label"}
    found = all_rows(build(EXAMPLES, {"sources": [source], "near_duplicates": 0.6}))
    assert {row.label for row in found} == {"ham", "spam"} and len({row.split for row in found}) == 1


def test_file_without_a_reader_is_rejected(build: Build, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.csv").write_text("text,label\nhello,ham\n")
    (tmp_path / "texts/about.docx").write_bytes(b"PK")
    made = build(EXAMPLES, {"sources": [{"uri": str(tmp_path / "texts"), "label": "label"}]})
    assert [row.label for row in all_rows(made)] == ["ham"]
    rejected = [(row["location"], row["reason"]) for row in read_rows(made.file("rejected.parquet"))]
    assert rejected == [("about.docx file", "no reader for .docx")]


def test_examples_come_from_fingerprinted_files_only(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "texts/a.csv"
    path.parent.mkdir()
    path.write_text("text,label\nhello,ham\n")
    config = ExamplesConfig.model_validate({"sources": [{"uri": str(path.parent), "label": "label"}]})
    step = EXAMPLES.using("test", config)
    assert step.fingerprint  # the files are listed here
    (tmp_path / "texts/b.csv").write_text("text,label\nlater,ham\n")

    def run(out: Path, scratch: Path) -> dict[str, Any]:
        return EXAMPLES.run({}, config, out, StepContext(scratch, sources=step.sources))

    path.write_text("text,label\nhello,spam\n")
    with pytest.raises(InputError, match=r"texts/a\.csv changed while it was read"):
        store.build(step, run)
    path.write_text("text,label\nhello,ham\n")
    assert [row.text for row in all_rows(store.build(step, run))] == ["hello"]
