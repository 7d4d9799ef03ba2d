from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import problems, read, texts

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.ingest.texts import usable
from pipelines.corpus.readers import delimited
from pipelines.corpus.readers.delimited import guess_delimiter, guess_quotes
from pipelines.corpus.readers.formats import one_by_one
from pipelines.corpus.readers.records import Bad, ReadOptions, Record

MESSAGES = """ham\tok see you at five then
ham\t"Well said, I thought, and left
spam\tWIN a prize now
ham\the asked "why" and I had no answer
ham\tit was "fine" they said
"""


def test_rows_of_wrong_width_are_rejected_by_line() -> None:
    found = read(b"text,n\na,1\nb\nc,2,3\nd,4\n", "a.csv")
    assert texts(found) == ["a", "d"]
    assert problems(found) == [("line 3", "1 fields where 2 are expected"), ("line 4", "3 fields where 2 are expected")]


def test_long_column_names_are_cut_in_reasons() -> None:
    names = ",".join(f"c{number}" + "z" * 20_000 for number in range(100))
    row = "1" + ",1" * 99
    source = SourceConfig(uri="a.csv")
    found = [usable(record, source) for record in read(f"{names}\n{row}\n{row}\n".encode(), "a.csv")]
    for record in found:
        assert isinstance(record, Bad) and record.reason.startswith("no column 'text'; there are c0zzz")
        assert len(record.reason) < 600 and len(record.text) == 2000
    assert len(found) == 2


def test_million_columns_are_one_problem() -> None:
    names = ",".join(map(str, range(1_000_000)))
    assert problems(read(f"{names}\n".encode(), "a.csv")) == [("file", "more than 100,000 columns")]


@pytest.mark.parametrize(
    ("rows", "good", "place", "reason"),
    [
        ('1,"forgotten\n2,b\n3,"c, d"\n', ["b", "c, d"], 2, "column 'text': a quote within quotes"),
        ('1,"forgotten\n2,b\n3,c\n', ["b", "c"], 2, "column 'text': a quote that does not close"),
        ('1,a\n2,"he said "hi" to me"\n3,"b, c"\n', ["a", "b, c"], 3, "column 'text': a quote within quotes"),
        ('"1,a\n2,b\n3,c"\n4,d\n', ["b", 'c"', "d"], 2, "column 'id': a quote that does not close"),
        ("1,a\n2,b\0c\n3,d\n", ["a", "d"], 3, "column 'text': a NUL byte"),
        ('1,a\n2,"b\n\0c"\n3,d\n', ["a", "d"], 3, "column 'text': a NUL byte"),
    ],
)
def test_bad_cell_costs_its_row(rows: str, good: list[str], place: int, reason: str) -> None:
    found = read(f"id,text\n{rows}".encode(), "a.csv", encoding="utf-8", quotes="fields")
    assert texts(found) == good and problems(found) == [(f"line {place}", reason)]


def test_quote_that_never_closes_costs_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "LEAST", 1000)
    monkeypatch.setattr(delimited, "MAX_LINE", 1000)
    found = read(b'text\na\n"' + b"line\n" * 500, "a.csv", quotes="fields")
    assert texts(found) == ["a"] + 499 * ["line"]
    assert problems(found) == [("line 3", "column 'text': a row of more than 1,000 characters")]
    found = read(b"text\na\n" + b"x" * 5000 + b"\nb\n", "a.csv")
    assert texts(found) == ["a", "b"] and problems(found) == [("line 3", "a row of more than 1,000 characters")]


def test_quotes_that_open_on_each_line_take_linear_time() -> None:
    found = read(b"text,n\n" + b'b""","c\n' * 5_000, "a.csv", quotes="fields")
    assert len(problems(found)) == len(found) == 5_000


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_header_says_where_the_columns_are(line_end: str) -> None:
    lines = ['\ufeff"id", text ,,', "1,a", '2, "b, c", ,', '3,"d" ,x', "4, e,x,", "5,f,,,,,", "6,g,,,z"]
    found = read(line_end.join(lines).encode(), "a.csv")
    assert texts(found) == ["a", "b, c", "d", " e", "f"]
    assert problems(found) == [("line 7", "5 fields where 4 are expected")]


def test_columns_that_nobody_asked_for_cost_nothing() -> None:
    content = io.BytesIO(b"text,x,x\na,1,2\nb,\0,2\nc,\xff,1\n")
    found = one_by_one(delimited.read_csv(content, SourceConfig(uri="a.csv", encoding="utf-8")))
    assert texts(list(found)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("head", "delimiter", "quotes"),
    [
        (MESSAGES, "\t", ("letters", False)),
        ('id\ttext\n1\t"a ""word"" in quotes"\n2\tb\n', "\t", ("fields", False)),
        ('id\ttext\n1\t"two\nlines"\n2\tb\n', "\t", ("fields", False)),
        ('id\ttext\n1\t"a\ttab"\n2\tb\n', "\t", ("fields", False)),
        ('"id"\t"text"\n"1"\t"a"\n"2"\t"b"\n', "\t", ("fields", False)),
        ('id\ttext\n1\t"a whole quotation"\n2\tb\n', "\t", ("letters", True)),
        ('id,text\n1,"a ""word"" in quotes"\n', ",", ("fields", False)),
        ('id,text\n1,"a \\"word\\" in quotes"\n2,"b, c"\n', ",", ("escaped", False)),
        ('id\ttext\n1\t"a \\"word\\""\n2\tb\n', "\t", ("escaped", False)),
        ('id,text\n1,"Well said" I thought\n2,"Well" again\n', ",", ("letters", True)),
        ('id,text\n1,"a"\n2,"b"\n3,c\n4,"forgotten\n', ",", ("fields", False)),
        ("id,text\n1,a\n", ",", ("fields", False)),
    ],
)
def test_quotes_are_guessed_by_the_first_lines(head: str, delimiter: str, quotes: tuple[str, bool]) -> None:
    columns = ("label", "text") if head == MESSAGES else ()
    assert guess_quotes(head, delimiter, ReadOptions(columns=columns)) == quotes


def test_letters_and_escapes_are_read_as_the_key_says() -> None:
    found = read(MESSAGES.encode(), "a.tsv", columns=("label", "text"), quotes="letters")
    assert texts(found) == [line.partition("\t")[2] for line in MESSAGES.splitlines()]
    found = read(b'text,n\n"a \\"word\\", C:\\new",1\n"end\\\\",2\n', "a.csv", quotes="escaped")
    assert texts(found) == ['a "word", C:\\new', "end\\"]


@pytest.mark.parametrize(
    ("head", "delimiter"),
    [
        ("text;label\nHello, you;x\n", ";"),
        ("text|label\na|b\n", "|"),
        ("text\tlabel\na\tb\n", "\t"),
        ("text,label\na; b; c,x\n", ","),
        ("text\nHello; you, there\n", ","),
        ("sep=;\ntext;label\na;b\n", ";"),
        ('"a;b","text"\n', ","),
        ("", ","),
    ],
)
def test_delimiter_is_guessed_where_the_header_is_clear(head: str, delimiter: str) -> None:
    assert guess_delimiter(head, ",", ReadOptions()) == delimiter
    assert guess_delimiter(head, ",", SourceConfig(uri="a.csv")) == delimiter


def test_line_of_excel_that_names_the_delimiter_is_skipped() -> None:
    found = read(b"sep=;\r\ntext;n\r\na;1\r\n", "a.csv", delimiter=";")
    assert found == [Record({"text": "a", "n": "1"}, "line 3")]


CELLS = st.text(st.sampled_from('ab", \t;\n\\é'), max_size=5)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5), st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n"]))
@settings(deadline=None)
def test_well_formed_tables_have_the_rows_of_python(rows: list[tuple[str, str]], delimiter: str, end: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end).writerows([("text", "b"), *rows])
    expected = list(csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=delimiter))[1:]
    found = read(out.getvalue().encode(), "a.csv", delimiter=delimiter, quotes="fields", encoding="utf-8")
    assert [list(record.fields.values()) for record in found if isinstance(record, Record)] == expected
    assert problems(found) == ([] if expected else [("file", "no records")])
