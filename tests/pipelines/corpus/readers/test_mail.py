from __future__ import annotations

import email.message
import mailbox
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import documents
from hostile import FROM, MESSAGE
from hypothesis import given
from hypothesis import strategies as st
from reading import problems, read, texts

from pipelines.corpus.ingest.ingest import INGEST
from pipelines.corpus.readers.records import Bad, Record
from pipelines.store.dataset import Dataset

Build = Callable[..., Dataset]


def test_message_gives_its_plain_text_and_decoded_headers() -> None:
    (record,) = read(MESSAGE, "a.eml")
    assert isinstance(record, Record)
    assert record.fields == {
        "text": "The mühle grinds.\n\n>From the river:\n> does it grind?",
        "subject": "Gemüse",
        "from": "Mühle <mill@example.org>",
        "to": "river@example.org",
        "cc": None,
        "date": "2023-01-02T10:11:12+01:00",
        "message-id": "<1@example.org>",
        "in-reply-to": None,
        "attachments": 1,
    }


def test_mbox_gives_each_message_as_python_reads_it(tmp_path: Path) -> None:
    box = mailbox.mbox(str(tmp_path / "a.mbox"))
    bodies = [f"Line {i}\n\nFrom here to {i}\n" for i in range(20)]
    for body in bodies:
        message = email.message.EmailMessage()
        message["From"], message["Subject"] = "a@example.org", "Grüße"
        message.set_content(body)
        box.add(message)
    box.close()
    found = read((tmp_path / "a.mbox").read_bytes(), "a.mbox")
    assert [text.strip() for text in texts(found)] == [body.strip() for body in bodies]
    assert [record.location for record in found] == [f"message {i}" for i in range(1, 21)]


@pytest.mark.parametrize(
    ("header", "content", "text"),
    [
        (b"Content-Type: text/plain", "Die Mühle mahlt langsam.".encode(), "Die Mühle mahlt langsam."),
        (
            b"Content-Type: text/plain",
            "Die Mühle mahlt. Die Räder drehen über dem Fluß.".encode("cp1252"),
            "Die Mühle mahlt. Die Räder drehen über dem Fluß.",
        ),
        (b"Content-Type: text/plain; charset=none-such", "Grüße".encode(), "Grüße"),
        (b"Content-Type: text/plain; charset=us-ascii", "Grüße".encode(), "Grüße"),
        (b"Content-Type: text/plain; charset=koi8-r", "Привет".encode("koi8-r"), "Привет"),
        (b"Content-Type: text/html; charset=utf-8", "<p>Ja, schön.</p>".encode(), "Ja, schön."),
        (b"Content-Type: multipart/mixed", b"no boundary", "no boundary"),
        (b"X: y", b"no type", "no type"),
    ],
)
def test_text_is_decoded_by_its_charset_or_a_guess(header: bytes, content: bytes, text: str) -> None:
    assert texts(read(b"Subject: x\n" + header + b"\n\n" + content, "a.eml")) == [text]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a message: it has no header"),
        (b"\n\nonly text", "not a message: it has no header"),
        (b"Subject: x\n\n \n", "no text in this message"),
        (b"Subject: x\nContent-Type: image/png\n\nabc", "no text in this message"),
        (b"Subject: x\nContent-Type: message/rfc822\n\n" * 500, "no text in this message"),
    ],
)
def test_message_without_text_is_rejected(content: bytes, reason: str) -> None:
    assert problems(read(content, "a.eml")) == [("file", reason)]


def nested(depth: int) -> bytes:
    lines = [b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (i, i) for i in range(depth)]
    return b"Subject: x\n" + b"".join(lines) + b"\n\ntext\n"


def test_nested_message_costs_only_itself() -> None:
    found = read(FROM + nested(3000) + b"\n" + FROM + MESSAGE, "a.mbox")
    assert isinstance(found[0], Bad) and len(texts(found)) == 1


@given(st.binary(max_size=400), st.integers(0, len(MESSAGE)), st.booleans())
def test_any_bytes_give_one_record_or_rejection(junk: bytes, at: int, in_box: bool) -> None:
    content = MESSAGE[:at] + junk + MESSAGE[at:]
    found = read(FROM + content if in_box else content, "a.eml")
    assert len(found) == 1 or in_box or content.startswith(b"From ")
    assert all(isinstance(each, Bad) or each.fields["text"].strip() for each in found)


def test_folders_of_messages_become_documents_with_metadata(tmp_path: Path, build: Build) -> None:
    box = mailbox.Maildir(str(tmp_path / "mail"))
    for i in range(3):
        box.add(MESSAGE.replace(b"grinds", b"grinds %d" % i))
    source = {"uri": str(tmp_path / "mail"), "metadata": ["subject", "date"]}
    rows = documents(build(INGEST, {"sources": [source]}))
    assert len(rows) == 3 and rows[0]["metadata"] == '{"subject":"Gemüse","date":"2023-01-02T10:11:12+01:00"}'
    (tmp_path / "export").mkdir()
    (tmp_path / "export/a.eml").write_bytes(MESSAGE)
    (tmp_path / "export/b.mbox").write_bytes(FROM + MESSAGE.replace(b"grinds", b"stands"))
    (tmp_path / "export/2023-January.txt").write_bytes(FROM + MESSAGE.replace(b"grinds", b"turns"))
    (tmp_path / "export/letter.txt").write_bytes(b"From: the mill\nTo: the river\n\nA letter.")
    rows = documents(build(INGEST, {"sources": [{"uri": str(tmp_path / "export")}]}))
    assert len(rows) == 4 and rows[-1]["text"].startswith("From: the mill")
