from __future__ import annotations

import gzip
import io

import pytest
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
