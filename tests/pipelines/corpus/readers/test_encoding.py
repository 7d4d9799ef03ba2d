from __future__ import annotations

import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import problems, read, texts

from pipelines.corpus.readers.encoding import UNDECODED, detect_encoding
from pipelines.corpus.readers.records import Record
from pipelines.errors import InputError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_unicode_is_detected_with_and_without_a_mark(encoding: str, name: str) -> None:
    text = "Die Mühle mahlt langsam, aber gut. " * 3
    content = {
        "a.txt": text,
        "a.csv": f'text,n\n"{text}",1\n',
        "a.jsonl": json.dumps({"text": text}, ensure_ascii=False),
    }
    assert texts(read(content[name].encode(encoding), name)) == [text]


def test_legacy_encoding_is_detected_or_declared() -> None:
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


def test_declared_encoding_is_used_in_every_text_format() -> None:
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


@pytest.mark.parametrize(
    ("content", "name", "encoding"),
    [
        ("gut".encode("utf-16") + b"\x00\xd8" + "e Mühle".encode("utf-16-le"), "a.txt", None),
        ("gut".encode("utf-16") + "e Mühle".encode("utf-16-le") + b"\x20", "a.txt", None),
        (b'{"text": "gut\x81e M\xfchle"}', "a.jsonl", "cp1252"),
        (b"gut\x81e M\xfchle", "a.txt", "cp1252"),
    ],
)
def test_bytes_outside_other_encodings_become_surrogates(content: bytes, name: str, encoding: str | None) -> None:
    (text,) = texts(read(content, name, encoding=encoding))
    assert UNDECODED.search(text) and "\ufffd" not in text
    assert UNDECODED.sub("", text) == "gute Mühle"


def test_bytes_outside_utf8_become_surrogates() -> None:
    (text,) = texts(read(b"good " * 1000 + b"\xff" + b" good" * 1000, "a.txt"))
    assert text.count("\udcff") == 1
    (text,) = texts(read(b'{"text": "good \xff"}\n' + b'{"n": 1}\n' * 0, "a.jsonl"))
    assert text == "good \udcff"


@pytest.mark.parametrize(
    "content",
    [bytes(range(256)) * 20, b"\x7fELF\0\0\0\1\2\3" * 50, b"\x01\x02\x03abc" * 50, array("H", range(5000)).tobytes()],
)
def test_binary_file_is_not_text(content: bytes) -> None:
    assert problems(read(content, "a.txt")) == [("file", "binary, not text")]


@given(st.text(max_size=200))
def test_utf8_is_always_detected(text: str) -> None:
    if "\0" not in text and sum(ord(c) < 32 for c in text) < 0.05 * len(text):
        assert detect_encoding(text.encode()) in ("utf-8-sig", "utf-16", "utf-32") or text.startswith("\ufeff")


@pytest.mark.parametrize("encoding", ["hex", "rot13", "nope", "zlib"])
def test_unknown_encoding_is_one_sentence(encoding: str) -> None:
    with pytest.raises(InputError, match=f"There is no encoding '{encoding}'"):
        read(b"abc", "a.txt", encoding=encoding)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Crème brûlée, déjà vu, à côté", "cp1252"),
        ("“Größe” für 5 € – schön", "cp1252"),
        (
            "Zażółć gęślą jaźń. Młyn nad rzeką miele powoli, ale miele dobrze, i miele cały dzień aż do wieczora.",
            "cp1250",
        ),
        (PARAGRAPH, "cp1251"),
        (PARAGRAPH, "koi8-r"),
        ("Ο μύλος δίπλα στο ποτάμι αλέθει αργά, αλλά αλέθει καλά όλη την ημέρα μέχρι το βράδυ.", "cp1253"),
        ("川のそばの水車はゆっくりと、しかし良く、朝から晩まで粉を挽く。", "shift_jis"),
        ("河边的水车慢慢地磨,但磨得很好,从早到晚磨个不停。", "gb18030"),
    ],
)
def test_legacy_encodings_are_detected_in_short_texts(text: str, encoding: str) -> None:
    assert text.encode(encoding).decode(detect_encoding(text.encode(encoding))) == text
