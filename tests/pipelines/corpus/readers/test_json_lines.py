from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reading import problems, read, texts

from pipelines.corpus.readers import json_lines
from pipelines.corpus.readers.json_lines import guess_shape
from pipelines.corpus.readers.records import Record


def test_bad_json_line_costs_only_itself() -> None:
    found = read(b'{"text": "a"}\n{"text": \n\n[1]\n{"text": "b"}', "a.jsonl")
    assert texts(found) == ["a", "b"]
    assert [(location, reason[:8]) for location, reason in problems(found)] == [
        ("line 2", "not JSON"),
        ("line 4", "not a JS"),
    ]


@given(
    st.lists(
        st.lists(
            st.sampled_from(
                ['{"text": "a"}', '{"text": "', 'b"}', "{}", "[", "]", "{", "}", ",", "null", " ", "\r", '{"a": [{}']
            ),
            max_size=4,
        ),
        max_size=6,
    ),
    st.integers(1, 60),
)
@example([['{"a": [{}'], ["{}", "]", "}", ",", "{}"], []], 60)  # as many objects as lines, if one ran over a line's end
@example([['{"a": [{}'], ["{}", "]", "}", ",", "null", ",", "{}"], []], 60)
@settings(deadline=None)
def test_json_lines_are_read_one_by_one(lines: list[list[str]], buffer: int) -> None:
    content = "\n".join("".join(line) for line in lines).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "BUFFER", buffer)
        found = read(content, "a.jsonl")
        patch.setattr(json_lines, "_objects", lambda lines: [])
        assert found == read(content, "a.jsonl")
    good = [(line, number) for number, line in enumerate(content.split(b"\n"), 1) if is_object(line)]
    assert [record for record in found if isinstance(record, Record)] == [
        Record(json.loads(line.rstrip(b", \r")), f"line {number}") for line, number in good
    ]


def is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.rstrip(b" \r").removesuffix(b",")), dict)
    except ValueError:
        return False


@pytest.mark.parametrize("buffer", [1, 7, 900])
def test_too_long_line_costs_only_itself(monkeypatch: pytest.MonkeyPatch, buffer: int) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE", 1000)
    monkeypatch.setattr(json_lines, "BUFFER", buffer)
    content = b'{"text": "a"}\n{"text": "' + b"x" * 5000 + b'"}\n{"text": "b"}\n'
    found = read(content, "a.jsonl")
    assert texts(found) == ["a", "b"]
    assert problems(found) == [("line 2", "a line of more than 1,000 bytes")]


def test_line_of_endless_values_costs_only_itself() -> None:
    line = b'{"text": "a", "b": [' + b"{}," * 2_000_000 + b"1]}\n"
    found = read(b'{"text": "a"}\n' + line + b'{"text": "b, [{,"}\n', "a.jsonl")
    assert texts(found) == ["a", "b, [{,"]
    assert problems(found) == [("line 2", "a line of too many values")]


def test_signs_within_a_long_text_are_no_values() -> None:
    text = 'an escaped \\ "quote", and [{,' * 300_000
    assert texts(read(json.dumps({"text": text}).encode(), "a.jsonl")) == [text]


def test_values_that_json_does_not_have_cost_nothing_or_their_line() -> None:
    lines = [
        '{"text": "a", "n": NaN, "m": -Infinity}',
        '{"text": "b\0"}',
        '{"text": "c", "n": nan}',
        '\x1e{"text": "d"}',
        '\ufeff{"text": "e"},\r',
        '{"text": "f", "n": ' + "1" * 5000 + "}",
        '{"text": "g", "text": "h"}',
        '{"text": "i", // a comment',
    ]
    found = read("\n".join(lines).encode(), "a.jsonl", format="jsonl", encoding="utf-8")
    assert [record.fields["text"] for record in found if isinstance(record, Record)] == ["a", "d", "e", "h"]
    assert found[0] == Record({"text": "a", "n": None, "m": None}, "line 1")
    assert problems(found) == [
        ("line 2", "not JSON in column 'text': invalid control character"),
        ("line 3", "not JSON in column 'n': expecting value"),
        ("line 6", "not JSON: a number of too many digits"),
        ("line 8", "not JSON in column 'text': a comment, which JSON does not have"),
    ]


def test_json_lines_in_utf_16_are_read() -> None:
    assert texts(read('{"text": "ä"}\n{"text": "b"}\n'.encode("utf-16"), "a.jsonl")) == ["ä", "b"]


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ('{"text": "a"}\n{"text": "b"}\n', "jsonl"),
        ('\ufeff\n{"text": "a"}\r\n{"te', "jsonl"),
        ('\x1e{"text": "a"}\n\x1e{"text": "b"}\n', "jsonl"),
        ('{"text": "a", \n{"text": "b"}\n', "jsonl"),
        ('["a", "b"]\n["c", "d"]\n', "jsonl"),
        ('[\n{"text": "a"},\n{"text": "b"}\n]\n', "json"),
        ('[{"text": "a"},\n {"text": "b"}]', "json"),
        ('[{"text": "a\0"}, {"te', "json"),
        ('{\n  "text": "a",\n  "n": [\n    {"m": 1}\n  ]\n}\n', "json"),
        ('{\n  "text": "a"\n}\n{\n  "text": "b"\n}\n', "json"),
        ('{"text": "a"}{"text": "b"}\n', "json"),
        ("[" * 100_000, "json"),
        ('{"text": "a"}', None),
        ('{"text": "a"}\n', None),
        ('{"text": "a ve', None),
        ("no JSON", None),
        ("", None),
    ],
)
def test_shape_is_guessed_by_the_first_characters(head: str, shape: str | None) -> None:
    assert guess_shape(head) == shape
