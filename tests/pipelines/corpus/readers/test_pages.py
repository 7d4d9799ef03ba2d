from __future__ import annotations

import gzip
import io
import os
from itertools import pairwise

import pytest
from hostile import LINE, pdf_of_forms, pdf_of_pages, warc_record
from reading import problems, read, texts

from pipelines.corpus.readers.records import Record


def test_html_gives_main_text_and_title() -> None:
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


PARAGRAPH = "Мельница у реки мелет медленно, но мелет хорошо, и мелет весь день до вечера. " * 5


def test_broken_byte_of_a_page_garbles_nothing_else() -> None:
    page = f"<html><body><article><p>{PARAGRAPH}</p><p>{PARAGRAPH}</p></article></body></html>".encode()
    (text,) = texts(read(page.replace(" весь".encode(), b" \xff", 1), "a.html"))
    assert text.count("\udcff") == 1 and text.replace("\udcff", "весь").split() == (PARAGRAPH * 2).split()


def test_wrongly_packed_page_ends_an_archive() -> None:
    page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\nnot gzip"
    head = "WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
    assert problems(read(f"{head}Content-Length: 999\r\n\r\n{page}".encode(), "a.warc"))


def test_pages_that_share_their_text_are_a_bomb() -> None:
    content = pdf_of_pages(b"BT /F 12 Tf 10 700 Td %s ET" % (LINE * 20_000), 2_000)
    assert len(content) < 20_000
    assert "decompression bomb" in problems(read(content, "a.pdf"))[0][1]
    assert texts(read(pdf_of_pages(b"BT /F 12 Tf 10 700 Td %s ET" % LINE, 3), "a.pdf"))[0].count("ordinary words") == 3


def test_skipped_part_of_a_page_is_a_problem() -> None:
    found = read(pdf_of_forms(12_000, 1), "a.pdf")
    assert "a part of page 1 is lost" in problems(found)[0][1] and not texts(found)


@pytest.mark.parametrize(
    "cut",
    [
        warc_record(b"text that goes on", 500),
        warc_record(
            gzip.compress(os.urandom(1000))[:-100], headers="Content-Type: text/plain\r\nContent-Encoding: gzip\r\n"
        ),
    ],
)
def test_cut_record_of_an_archive_is_rejected(cut: bytes) -> None:
    found = read(warc_record(b"whole") + cut, "a.warc")
    assert texts(found) == ["whole"] and problems(found) == [("record 2", "the record ends before its length")]


def test_long_record_of_an_archive_is_rejected_and_not_cut() -> None:
    long = warc_record(b"a" * ((64 << 20) + 1))
    found = read(long + warc_record(b"behind"), "a.warc")
    assert texts(found) == ["behind"]
    assert problems(found) == [("record 1", "a record of more than 67,108,864 bytes")]


def test_entities_of_a_page_do_not_unfold() -> None:
    entities = "".join(f'<!ENTITY {after} "{f"&{name};" * 10}">' for name, after in pairwise("abcdefghi"))
    found = read(
        f'<!DOCTYPE html [<!ENTITY a "aaaa">{entities}]><html><body><p>&i;</p></body></html>'.encode(), "a.xhtml"
    )
    assert len("".join(texts(found))) < 2000


@pytest.mark.parametrize("content", [b"", b"X" * 100_000, b"Name: value\r\n" * 100])
def test_archive_without_a_record_is_rejected(content: bytes) -> None:
    assert problems(read(content, "a.warc"))
