"""What the columns of a table of texts seem to be."""

import pytest

from pipelines.starter.columns import Columns, columns_of, names_of, without_header

TEXTS = ["a first sentence of words", "another sentence of words", "some third sentence of words"]


def rows(**columns):
    return [{name: values[n % len(values)] for name, values in columns.items()} for n in range(30)]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (rows(text=TEXTS), {"text": "text"}),
        (rows(id=[str(n) for n in range(30)], Review=TEXTS, stars=[1, 5]), {"text": "Review", "label": "stars"}),
        (rows(v1=["ham", "spam"], v2=TEXTS), {"text": "v2", "label": "v1"}),
        (rows(text=TEXTS, language=["en", "de"]), {"text": "text"}),
        (rows(url=["https://a.org/1", "https://a.org/2"], page=TEXTS), {"text": "page"}),
        (rows(prompt=TEXTS, completion=TEXTS), {"instruction": "prompt", "response": "completion"}),
        (
            rows(Instruction=TEXTS, input=TEXTS, output=TEXTS),
            {"instruction": "Instruction", "input": "input", "response": "output"},
        ),
        (rows(question=TEXTS, answer=TEXTS, title=TEXTS), {"instruction": "question", "response": "answer"}),
        (
            rows(messages=[[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]),
            {"conversation": "messages"},
        ),
        (rows(talk=[[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]]), {"conversation": "talk"}),
        (rows(text=TEXTS, tags=[["a", "b"]]), {"text": "text"}),
        (rows(dialog=[["Hello.", "Hello, you."]]), {"conversation": "dialog"}),
        (rows(文=["这是一个句子", "这是另一个句子"]), {"text": "文"}),
    ],
)
def test_columns_are_recognised(records, expected):
    found = columns_of(records)
    known = ("text", "label", "conversation", "instruction", "input", "response")
    assert {name: column for name in known if (column := getattr(found, name))} == expected


def test_labels_are_counted():
    assert columns_of(rows(text=TEXTS, label=[True, False, False])).labels == (("False", 20), ("True", 10))


def test_table_of_numbers_has_no_text():
    assert columns_of(rows(a=[1, 2, 3], b=["1.5", "2.5"])) is None


def test_first_row_that_recurs_is_no_header():
    records = [{"ham": "ham", "How are you?": "Fine."}, {"ham": "spam", "How are you?": "You have won"}]
    assert without_header(["ham", "How are you?"], records)
    assert not without_header(["label", "text"], [{"label": "ham", "text": "Fine."}])
    assert without_header(["0", "1467810369"], [])


def test_columns_without_header_get_names():
    found = [{"1": ["ham", "spam"][n % 2], "2": str(n % 3), "3": f"This is message {n}"} for n in range(20)]
    assert names_of(found) == ("label", "2", "text")


def test_no_column_of_nothing():
    assert columns_of([]) is None
    assert Columns().read == ()
