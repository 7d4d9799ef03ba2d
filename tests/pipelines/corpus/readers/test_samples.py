from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from reading import problems, read, texts

from pipelines.corpus.readers.records import Bad, Record


def test_yaml_conversations_give_their_turns() -> None:
    content = b"categories: [mill]\nconversations:\n- - Hello\n  - Hi\n- - alone\n- - How many?\n  - 12\n"
    content += b"- - Are you a robot?\n  - Yes\n- - Which version, and since when?\n  - 1.10\n  - 2026-02-30\n"
    found = read(content, "chat.yml")
    assert [record.fields["messages"] for record in found if isinstance(record, Record)] == [
        ["Hello", "Hi"],
        ["How many?", "12"],
        ["Are you a robot?", "Yes"],
        ["Which version, and since when?", "1.10", "2026-02-30"],
    ]
    assert problems(found) == [("conversation 2", "not a list of two or more turns")]


@pytest.mark.parametrize("broken", ["- - what: is: this\n  - no\n", "- - a\0b\n  - c\n", '- - "never closed\n  - a\n'])
def test_broken_conversation_costs_only_itself(broken: str) -> None:
    content = f"categories: [mill]\nconversations:\n- - Hello\n  - Hi\n{broken}- - How many?\n  - 12\n"
    found = read(content.encode(), "chat.yml", encoding="utf-8")
    assert [(record.location, record.fields) for record in found if isinstance(record, Record)] == [
        ("conversation 1", {"messages": ["Hello", "Hi"], "categories": ["mill"]}),
        ("conversation 3", {"messages": ["How many?", "12"], "categories": ["mill"]}),
    ]
    ((place, reason),) = problems(found)
    assert place == "conversation 2" and reason.startswith("not YAML: ")


def test_yaml_tags_run_nothing() -> None:
    (bad,) = read(b"conversations: !!python/object/apply:os.system [echo]\n", "chat.yml")
    assert isinstance(bad, Bad) and bad.reason.startswith("not YAML")


def test_python_literals_are_read_without_running_the_file(tmp_path: Path) -> None:
    content = b"import os\ntopics = {'a': 'one' 'two', 'b': 3, '\\ud800': 'three'}\nopen('ran', 'w')\n"
    found = read(content, "topics.py", format="python-dict")
    assert texts(found) == ["onetwo", "three"] and problems(found) == [("entry b", "the value is not a text")]
    assert found[2].location == "entry \ufffd"
    (bad,) = read(b"topics = {'a': open('ran')}", "topics.py", format="python-dict")
    assert isinstance(bad, Bad)


def test_yaml_aliases_do_not_unfold() -> None:
    names = "abcdefghi"
    content = "a: &a [x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(names)
    )
    (bad,) = read(f"{content}conversations: [*i]\n".encode(), "chat.yml")
    assert isinstance(bad, Bad) and "alias" in bad.reason and len(bad.text) <= 1000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"conversations: [" + b"a," * 1_000_000 + b"b]", "too many values"),
        (b"- " * 10_000, "nested too deeply"),
        (b"a" * (17 << 20), "larger than 16,777,216 bytes"),
        (b"- - a\n  - b\n---\n- c", "more than one document"),
        (b"- [a, b]\n" + b"- c\n" * 2000, "more than 1,000 entries are no conversations"),
    ],
)
def test_yaml_has_limits(content: bytes, says: str) -> None:
    assert says in problems(read(content, "chat.yml"))[-1][1]


@pytest.mark.parametrize("nested", [b"-" * 200_000 + b"1", b"(" * 9_000 + b")" * 9_000, b"1" * 5_000 + b": 2"])
def test_nested_literals_are_one_problem(nested: bytes) -> None:
    assert len(problems(read(b"t = {'a': " + nested + b"}", "a.py", format="python-dict"))) == 1
