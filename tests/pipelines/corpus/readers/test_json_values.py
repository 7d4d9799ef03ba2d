from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import problems, read, texts

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.readers import json_values
from pipelines.corpus.readers.json_values import read_json
from pipelines.corpus.readers.records import Bad, ReadOptions, Record


def values(content: str, options: ReadOptions | None = None) -> list[Record | Bad]:
    return list(read_json(as_file(content), options or ReadOptions(encoding="utf-8")))


def as_file(content: str) -> io.BytesIO:
    return io.BytesIO(content.encode())


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a"}, {"text": "b"}]',
        '\ufeff[{"text": "a"},\n{"text": "b"},]\n',
        '{"text": "a"}{"text": "b"}',
        '{\n"text": "a"\n}\n{\n"text": "b"\n}\n',
        '\x1e{"text": "a"}\n\x1e{"text": "b"}\n',
        '[{"text": "a"}]\n[{"text": "b"}]\n',
    ],
)
def test_objects_are_read_in_each_arrangement(content: str) -> None:
    assert values(content) == [Record({"text": "a"}, "record 1"), Record({"text": "b"}, "record 2")]
    assert texts(read(content.encode(), "a.json", format="json", encoding="utf-8")) == ["a", "b"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"text": "b\0"}', "not JSON in column 'text': invalid control character"),
        ('{"text": "b", "n": undefined}', "not JSON in column 'n': expecting value"),
        ('{"text": "b" // why\n}', "not JSON in column 'text': a comment, which JSON does not have"),
        ('{"text": "b",}', "not JSON in column 'text': a comma before a closing bracket"),
        ('{"text": "b, "n": 1}', "not JSON in column 'text': expecting ',' delimiter"),
        ('{"text": "b", "n": ' + "1" * 5000 + "}", "not JSON: a number of too many digits"),
        ('{"text": ' + "[" * 50_000 + "}", "not JSON: nested too deeply"),
        ("undefined", "not JSON: expecting value"),
        ("[1]", "not a JSON object"),
    ],
)
def test_broken_value_costs_only_itself(broken: str, reason: str) -> None:
    for between in (",", ",\n  "):
        found = values(f'[{{"text": "a"}}{between}{broken}{between}{{"text": "c", "n": [{{"text": 1}}]}}]')
        assert [record.fields["text"] for record in found if isinstance(record, Record)] == ["a", "c"]
        assert problems(found) == [("record 2", reason)]


def test_bytes_behind_which_nothing_is_found_are_counted() -> None:
    *_, last = values('[{"text": "a"}, {"text": "b, "n": 1}, {"n": 1, "text": "ä"}]')
    assert isinstance(last, Bad) and last.location == "record 2" and last.lost_bytes == 45
    assert last.sentence == "not JSON in column 'text': expecting ',' delimiter; 45 bytes are lost"
    (first,) = values("no JSON at all")
    assert isinstance(first, Bad) and first.lost_bytes == 14


def test_list_that_is_cut_off_is_noticed() -> None:
    assert problems(values('[{"text": "a"}')) == [("record 2", "the file ends within its list")]
    assert problems(values('[{"text": "a"}, {"te')) == [("record 2", "not JSON: unterminated string")]


def test_tables_in_one_object_are_named() -> None:
    def reason(value: object, **options: str) -> str:
        ((_, reason),) = problems(values(json.dumps(value), SourceConfig(uri="a.json", **options)))
        return reason

    lists = {"version": 1, "data": [{"text": "a", "n": 1}, {"text": "b"}]}
    assert reason(lists) == "one object whose 'data' lists 2 objects with text, n; write this list alone"
    says = "one object of columns, such as 'text', and not of records; write one object for each record"
    assert reason({"text": ["a", "b"], "n": [1, 2]}) == reason({"text": {"0": "a"}, "n": {"0": 1}}) == says
    chat = {"messages": [{"role": "user", "content": "a"}]}
    assert values(json.dumps(chat), SourceConfig(uri="a.json", text="messages")) == [Record(chat, "record 1")]


def test_endless_nonsense_ends() -> None:
    found = values("[" + "undefined," * 5000)
    assert len(found) == 1001 and sum(bad.lost_bytes for bad in found if isinstance(bad, Bad)) == 10 * 4000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=5), st.integers(1, 90), st.booleans())
@settings(deadline=None)
def test_well_formed_lists_have_the_values_of_python(rows: list[dict[str, object]], block: int, spread: bool) -> None:
    content = json.dumps(rows, indent=2 if spread else None, ensure_ascii=spread).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "BUFFER", block)
        found = list(read_json(io.BytesIO(content), ReadOptions(encoding="utf-8")))
    assert found == [Record(row, f"record {number}") for number, row in enumerate(json.loads(content), 1)]


@pytest.mark.parametrize(
    ("name", "content", "unit"),
    [
        ("a.json", '{"text": "a"}\n{"text": "b"}\n', "line"),
        ("a.jsonl", '[\n{"text": "a"},\n{"text": "b"}\n]\n', "record"),
        ("a.jsonl", '{\n "text": "a"\n}\n{\n "text": "b"\n}\n', "record"),
    ],
)
def test_json_is_read_in_another_shape_than_its_name_says(name: str, content: str, unit: str) -> None:
    assert read(content.encode(), name) == [Record({"text": "a"}, f"{unit} 1"), Record({"text": "b"}, f"{unit} 2")]
