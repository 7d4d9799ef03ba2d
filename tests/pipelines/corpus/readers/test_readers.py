"""Every format reads back what was written in it, and every damage costs only what it damaged."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import sys
from array import array
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.readers import compression, json_lines, records
from pipelines.corpus.readers.encoding import detect_encoding
from pipelines.corpus.readers.formats import formats_of, read_file
from pipelines.corpus.readers.records import Bad, ReadOptions, Record
from pipelines.errors import InputError

ROWS = [{"text": "one", "n": "1"}, {"text": "zwei\nZeilen, ä", "n": "2"}, {"text": 'three "quoted"', "n": "3"}]


def read(content: bytes, name: str, **options: Any) -> list[Record | Bad]:
    return list(read_file(io.BytesIO(content), name, ReadOptions(**options)))


def texts(found: list[Record | Bad]) -> list[str]:
    return [record.fields["text"] for record in found if isinstance(record, Record)]


def problems(found: list[Record | Bad]) -> list[tuple[str, str]]:
    return [(record.location, record.reason) for record in found if isinstance(record, Bad)]


def as_jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_csv(delimiter: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["text", "n"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


def as_parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


def as_arrow(stream: bool = False) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(out, table.schema) if stream else pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


WRITTEN = {
    "jsonl": as_jsonl(),
    "ndjson": as_jsonl(),
    "json": json.dumps(ROWS).encode(),
    "csv": as_csv(","),
    "tsv": as_csv("\t"),
    "parquet": as_parquet(),
    "arrow": as_arrow(),
    "feather": as_arrow(stream=True),
}
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("extension", WRITTEN)
def test_records_come_back_from_every_format_packed_or_not(extension: str, packing: str) -> None:
    found = read(PACK[packing](WRITTEN[extension]), f"rows.{extension}{packing}")
    assert [record.fields for record in found if isinstance(record, Record)] == ROWS
    assert not problems(found)


@pytest.mark.parametrize("extension", ["parquet", "arrow", "feather"])
def test_of_stored_columns_only_those_are_read_that_are_made_use_of(extension: str) -> None:
    def fields(**source: Any) -> list[dict[str, Any]]:
        options = SourceConfig(uri="rows", **source)
        found = read_file(io.BytesIO(WRITTEN[extension]), f"rows.{extension}", options)
        return [record.fields for record in found if isinstance(record, Record)]

    assert fields() == [{"text": row["text"]} for row in ROWS]
    assert fields(text="n") == [{"n": row["n"]} for row in ROWS]
    assert fields(metadata=["n"]) == fields(group_by=["n"]) == ROWS
    assert fields(text="body") == ROWS, "what is not there is missed among all that is"


def test_plain_text_is_one_document_or_as_many_as_a_separator_makes() -> None:
    assert texts(read(b"one\r\ntwo\n", "a.txt")) == ["one\ntwo\n"]
    found = read(b"one\n---\ntwo\nlines\n---\nthree", "a.md", split_at="\n---\n")
    assert texts(found) == ["one", "two\nlines", "three"]
    assert [record.location for record in found] == ["line 1", "line 3", "line 6"]


@given(st.text(st.sampled_from("ab \n."), max_size=300), st.integers(1, 50))
def test_a_long_text_is_cut_into_pieces_that_together_are_the_text(text: str, limit: int) -> None:
    pieces = texts(read(text.encode(), "a.txt", max_document=limit))
    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)


def test_a_long_text_is_cut_at_the_end_of_a_paragraph_if_there_is_one() -> None:
    pieces = texts(read(b"a b. c\n\nd e f\ng h", "a.txt", max_document=12))
    assert pieces[0] == "a b. c\n\n"


def test_html_gives_its_text_without_what_stands_around_it() -> None:
    paragraphs = "".join(f"<p>{'The mill grinds slowly but it grinds well. ' * 5}{i}</p>" for i in range(5))
    page = f"<html><head><title>Mill</title></head><nav><a>Home</a></nav><article>{paragraphs}</article></html>"
    (record,) = read(page.encode(), "page.html")
    assert isinstance(record, Record)
    assert "grinds well" in record.fields["text"] and "Home" not in record.fields["text"]
    assert record.fields["title"] == "Mill"


def test_pdf_gives_the_text_of_its_pages() -> None:
    stream = b"BT /F1 24 Tf 72 720 Td (The mill grinds) Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /MediaBox [0 0 612 792]"
        b" /Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    content, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    content += b"xref\n0 5\n0000000000 65535 f \n%strailer\n<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(content),
    )
    assert texts(read(content, "a.pdf")) == ["The mill grinds"]
    assert texts(read(gzip.compress(content), "a.pdf.gz")) == ["The mill grinds"]
    assert problems(read(content[:100], "a.pdf"))


@pytest.mark.parametrize("packed", [False, True])
def test_warc_gives_the_pages_and_their_addresses(packed: bool) -> None:
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    out = io.BytesIO()
    writer = WARCWriter(out, gzip=packed)
    body = b"<html><body><p>" + b"The mill grinds slowly but it grinds well. " * 20 + b"</p></body></html>"
    for kind, content in (("text/html", body), ("image/png", b"\x89PNG"), ("text/plain", "Mühle".encode())):
        headers = StatusAndHeaders("200 OK", [("Content-Type", kind)], protocol="HTTP/1.0")
        writer.write_record(
            writer.create_warc_record(
                "http://mill/" + kind, "response", payload=io.BytesIO(content), http_headers=headers
            )
        )
    found = read(out.getvalue(), "crawl.warc" + ".gz" * packed)
    assert [text[:9] for text in texts(found)] == ["The mill ", "Mühle"]
    assert found[0].fields["url"] == "http://mill/text/html"  # type: ignore[union-attr]


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


def test_yaml_runs_nothing() -> None:
    (bad,) = read(b"conversations: !!python/object/apply:os.system [echo]\n", "chat.yml")
    assert isinstance(bad, Bad) and bad.reason.startswith("not YAML")


def test_a_python_file_of_literals_is_read_and_not_run(tmp_path: Path) -> None:
    content = b"import os\ntopics = {'a': 'one' 'two', 'b': 3, '\\ud800': 'three'}\nopen('ran', 'w')\n"
    found = read(content, "topics.py", format="python-dict")
    assert texts(found) == ["onetwo", "three"] and problems(found) == [("entry b", "the value is not a text")]
    assert found[2].location == "entry \ufffd"
    (bad,) = read(b"topics = {'a': open('ran')}", "topics.py", format="python-dict")
    assert isinstance(bad, Bad)


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_unicode_is_detected_with_or_without_a_mark(encoding: str, name: str) -> None:
    text = "Die Mühle mahlt langsam, aber gut. " * 3
    content = {
        "a.txt": text,
        "a.csv": f'text,n\n"{text}",1\n',
        "a.jsonl": json.dumps({"text": text}, ensure_ascii=False),
    }
    assert texts(read(content[name].encode(encoding), name)) == [text]


def test_old_encodings_are_detected_and_a_declared_one_wins() -> None:
    text = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Die Mühle mahlt für die Größe schön. " * 5
    assert texts(read(text.encode("cp1252"), "a.txt")) == [text]
    assert texts(read(b"\xe4", "a.txt", encoding="cp1252")) == ["ä"]
    assert texts(read("ж".encode("koi8-r"), "a.txt", encoding="koi8-r")) == ["ж"]
    with pytest.raises(InputError, match="no encoding 'klingon'"):
        read(b"a", "a.txt", encoding="klingon")


@pytest.mark.parametrize("text", ["Мельница мелет медленно, но мелет. " * 9, "水车慢慢地磨,但磨得很好。\n" * 9])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_detected_in_any_script(text: str, encoding: str) -> None:
    assert texts(read(text.encode(encoding), "a.txt")) == [text]


PARAGRAPH = "Мельница у реки мелет медленно, но мелет хорошо, и мелет весь день до вечера. " * 5


def test_a_declared_encoding_wins_in_every_format_of_text() -> None:
    page = f"<html><body><article><p>{PARAGRAPH}</p></article></body></html>"
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://mill/\r\n"
    head += "Content-Type: application/http; msgtype=response\r\n"
    body = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n{PARAGRAPH}".encode("koi8-r")
    contents = {
        "a.html": page.encode("koi8-r"),
        "a.warc": f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n",
        "a.yml": f"conversations:\n- [{PARAGRAPH!r}, Да]\n".encode("koi8-r"),
        "a.json": json.dumps({"text": PARAGRAPH}, ensure_ascii=False).encode("koi8-r"),
        "a.jsonl": json.dumps({"text": PARAGRAPH}, ensure_ascii=False).encode("koi8-r"),
        "a.csv": f'text\n"{PARAGRAPH}"\n'.encode("koi8-r"),
        "a.md": PARAGRAPH.encode("koi8-r"),
    }
    for name, content in contents.items():
        (record,) = read(content, name, encoding="koi8-r")
        assert isinstance(record, Record), record
        said = record.fields["messages"][0] if name == "a.yml" else record.fields["text"]
        assert said.strip() == PARAGRAPH.strip(), name


def test_broken_bytes_of_a_page_are_told_and_garble_nothing_else() -> None:
    page = f"<html><body><article><p>{PARAGRAPH}</p><p>{PARAGRAPH}</p></article></body></html>".encode()
    (text,) = texts(read(page.replace(" весь".encode(), b" \xff", 1), "a.html"))
    assert text.count("\udcff") == 1 and text.replace("\udcff", "весь").split() == (PARAGRAPH * 2).split()


@pytest.mark.parametrize(
    ("content", "name", "encoding"),
    [
        ("gut".encode("utf-16") + b"\x00\xd8" + "e Mühle".encode("utf-16-le"), "a.txt", None),
        ("gut".encode("utf-16") + "e Mühle".encode("utf-16-le") + b"\x20", "a.txt", None),
        (b'{"text": "gut\x81e M\xfchle"}', "a.jsonl", "cp1252"),
        (b"gut\x81e M\xfchle", "a.txt", "cp1252"),
    ],
)
def test_bytes_outside_other_encodings_are_told_too(content: bytes, name: str, encoding: str | None) -> None:
    (text,) = texts(read(content, name, encoding=encoding))
    assert encoding.UNDECODED.search(text) and "\ufffd" not in text
    assert encoding.UNDECODED.sub("", text) == "gute Mühle"


def test_bytes_outside_the_encoding_arrive_as_lone_surrogates() -> None:
    (text,) = texts(read(b"good " * 1000 + b"\xff" + b" good" * 1000, "a.txt"))
    assert text.count("\udcff") == 1
    (text,) = texts(read(b'{"text": "good \xff"}\n' + b'{"n": 1}\n' * 0, "a.jsonl"))
    assert text == "good \udcff"


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 20,
        b"\x7fELF\0\0\0\1\2\3" * 50,
        b"\x01\x02\x03abc" * 50,
        array("H", range(5000)).tobytes(),
    ],
)
def test_binary_files_are_not_text(content: bytes) -> None:
    assert problems(read(content, "a.txt")) == [("file", "binary, not text")]


@given(st.text(max_size=200))
def test_utf8_is_always_taken_for_utf8(text: str) -> None:
    if "\0" not in text and sum(ord(c) < 32 for c in text) < 0.05 * len(text):
        assert detect_encoding(text.encode()) in ("utf-8-sig", "utf-16", "utf-32") or text.startswith("\ufeff")


# Damage


def test_a_bad_line_of_json_among_good_ones_costs_only_itself() -> None:
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
def test_lines_of_json_are_read_each_by_itself(lines: list[list[str]], buffer: int) -> None:
    content = "\n".join("".join(line) for line in lines).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BUFFER", buffer)
        found = read(content, "a.jsonl")
        patch.setattr(json_lines, "_objects", lambda lines: [])
        assert found == read(content, "a.jsonl")
    good = [(line, number) for number, line in enumerate(content.split(b"\n"), 1) if is_object(line)]
    assert [record for record in found if isinstance(record, Record)] == [
        Record(json.loads(line), f"line {number}") for line, number in good
    ]


def is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


@pytest.mark.parametrize("buffer", [1, 7, 900])
def test_a_line_that_is_too_long_costs_only_itself(monkeypatch: pytest.MonkeyPatch, buffer: int) -> None:
    monkeypatch.setattr(records, "MAX_LINE", 1000)
    monkeypatch.setattr(records, "BUFFER", buffer)
    content = b'{"text": "a"}\n{"text": "' + b"x" * 5000 + b'"}\n{"text": "b"}\n'
    found = read(content, "a.jsonl")
    assert texts(found) == ["a", "b"]
    assert problems(found) == [("line 2", "a line of more than 1,000 bytes")]


def test_rows_of_another_width_are_named_by_line() -> None:
    found = read(b"text,n\na,1\nb\nc,2,3\nd,4\n", "a.csv")
    assert texts(found) == ["a", "d"]
    assert problems(found) == [("line 3", "1 fields where 2 are expected"), ("line 4", "3 fields where 2 are expected")]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_two_columns_of_one_name_are_refused(name: str) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), out)
    content = {"a.csv": b"text,text\na,b\n", "a.parquet": out.getvalue()}[name]
    assert problems(read(content, name)) == [("file", "two columns are called 'text'")]


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
def test_an_archive_that_breaks_where_a_line_ends_is_broken(packing: str) -> None:
    lines = [json.dumps({"text": f"{random.getrandbits(180):051x}"}) for _ in range(30_000)]
    assert {len(line) for line in lines} == {64 - 1}  # zstd packs 128 KB at a time, so each of these ends with a line
    packed = PACK[packing]("\n".join([*lines, ""]).encode())
    for kept in (len(packed) // 2, len(packed) - 1):
        assert problems(read(packed[:kept], "a.jsonl" + packing))


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
def test_a_broken_archive_gives_what_came_before_the_break(packing: str) -> None:
    lines = [json.dumps({"text": f"line {i} {hash(str(i))}"}) for i in range(60_000)]
    packed = PACK[packing]("\n".join(lines).encode())
    found = read(packed[: len(packed) * 9 // 10], "a.jsonl" + packing)
    good = texts(found)
    assert 0 < len(good) < len(lines) and good == [json.loads(line)["text"] for line in lines[: len(good)]]
    assert problems(found)


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
def test_an_archive_may_be_of_several_parts_and_one_that_is_broken_is_told(packing: str) -> None:
    pack = PACK[packing]
    first, second = (pack("".join(json.dumps({"text": f"{i} {j}"}) + "\n" for j in range(9)).encode()) for i in (1, 2))
    assert len(texts(read(first + second, "a.jsonl" + packing))) == 18
    broken = read(first + b"X" + second, "a.jsonl" + packing)
    assert problems(broken)
    if packing != ".zst":  # whose blocks come out together
        assert len(texts(broken)) == 9
        assert not problems(read(first + bytes(512), "a.jsonl" + packing))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.txt.gz", "a.json", "a.pdf", "a.warc"])
def test_garbage_is_one_problem(name: str) -> None:
    assert len(problems(read(b"garbage, nothing but garbage", name))) == 1


def test_a_truncated_parquet_file_is_one_problem() -> None:
    found = read(WRITTEN["parquet"][:-50], "a.parquet")
    assert not texts(found) and len(problems(found)) == 1


@pytest.mark.parametrize("extension", ["txt", "jsonl", "csv", "json", "parquet", "yml", "html", "txt.gz"])
def test_an_empty_file_gives_no_text(extension: str) -> None:
    assert not "".join(texts(read(b"", f"a.{extension}")))


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json", "a.parquet", "a.pdf"])
def test_a_decompression_bomb_is_refused(name: str, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "BOMB_BYTES", 1 << 20)
    found = read(PACK[packing](b"0" * (8 << 20)), name + packing)
    assert "decompression bomb" in problems(found)[-1][1]


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_a_bomb_within_a_parquet_file_is_refused_before_it_is_unpacked(
    packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "BOMB_BYTES", 1 << 20)
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["0" * (8 << 20)]}), out, compression=packing)
    assert "decompression bomb" in problems(read(out.getvalue(), "a.parquet"))[0][1]


def test_what_packs_well_is_no_bomb() -> None:
    assert texts(read(gzip.compress(b"0" * 1_000_000), "a.txt.gz")) == ["0" * 1_000_000]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("extension", ["txt", "md", "py", "rs", "sql", "html", "yml"])
def test_formats_without_columns_may_be_packed_too(extension: str, packing: str) -> None:
    sentence = "The mill by the river grinds slowly, but it grinds well and it grinds all day. " * 5
    content = {
        "html": f"<html><body><article><p>{sentence}</p></article></body></html>",
        "yml": f"conversations:\n- [{json.dumps(sentence)}, Good]\n",
    }.get(extension, sentence)
    (record,) = read(PACK[packing](content.encode()), f"a.{extension}{packing}")
    assert isinstance(record, Record)
    said = record.fields["messages"][0] if extension == "yml" else record.fields["text"]
    assert said.strip() == sentence.strip()


def test_what_is_nested_without_end_is_a_problem_and_not_a_crash() -> None:
    for name in ("a.jsonl", "a.json", "a.yml"):
        assert problems(read(b"[" * 100_000, name))


def test_aliases_in_yaml_do_not_unfold() -> None:
    names = "abcdefghi"
    content = "a: &a [x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(names)
    )
    (bad,) = read(f"{content}conversations: [*i]\n".encode(), "chat.yml")
    assert isinstance(bad, Bad) and "alias" in bad.reason and len(bad.text) <= 1000


def test_values_that_python_cannot_hold_are_a_problem_and_not_a_crash() -> None:
    for values in (pa.array([2**50], pa.timestamp("s")), pa.array([2**30], pa.date32())):
        out = io.BytesIO()
        table = pa.table({"text": ["long ago"], "at": values})
        with pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table)
        assert len(problems(read(out.getvalue(), "a.arrow"))) == 1


def test_a_page_that_is_not_packed_as_it_says_ends_an_archive() -> None:
    page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\nnot gzip"
    head = "WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
    assert problems(read(f"{head}Content-Length: 999\r\n\r\n{page}".encode(), "a.warc"))


def test_the_same_damage_is_told_in_the_same_words() -> None:
    first, second = (read(b"topics = {'a': f()}", "a.py", format="python-dict") for _ in range(2))
    assert problems(first) == problems(second) and "0x" not in problems(first)[0][1]


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), OSError(28, "No space left on device")])
def test_what_is_not_the_files_fault_is_not_held_against_it(error: OSError) -> None:
    class Broken(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            raise error

        readinto = read = read1  # type: ignore[assignment]

    with pytest.raises(type(error)):
        list(read_file(io.BufferedReader(Broken(b"text")), "a.txt", ReadOptions()))


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(InputError, match=r"a.html needs the package trafilatura; pip install 'tokenmill\[formats\]'"):
        read(b"<p>text", "a.html")


@pytest.mark.parametrize("encoding", ["hex", "rot13", "nope", "zlib"])
def test_what_is_no_encoding_of_text_is_one_sentence(encoding: str) -> None:
    with pytest.raises(InputError, match=f"There is no encoding '{encoding}'"):
        read(b"abc", "a.txt", encoding=encoding)


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="known are text, markdown"):
        formats_of("a.txt", ReadOptions(format="docx"))
    with pytest.raises(KeyError):
        formats_of("a.docx", ReadOptions())
    assert problems(read(b"PK", "a.docx.gz")) == [("file", "no reader for .docx")]
