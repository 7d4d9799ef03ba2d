"""Files that are made to break readers: small ones that unpack to much, and good ones that were damaged."""

import io
import random
import zlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from reading import PACK, WRITTEN

SENTENCE = "The mill by the river grinds slowly, but it grinds well and it grinds all day. "
FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"
# An xz file of four letters whose packer asked for a dictionary of 1.5 GB.
LARGE_DICTIONARY = bytes.fromhex(
    "fd377a585a000004e6d6b44602002101250000003b787b41010003746578740055cde833ff4a0c1700011c04"
    "6f2c9cc11fb6f37d010000000004595a"
)
LINE = b"(Some ordinary words on a line of this page.) Tj 0 -12 Td "


def as_ipc(array: pa.Array, name: str = "text", stream: bool = False) -> bytes:
    out, batch = io.BytesIO(), pa.record_batch([array], [name])
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(out, batch.schema) as writer:
        writer.write_batch(batch)
    return out.getvalue()


def as_parquet(array: pa.Array, name: str = "text", **options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({name: array}), out, **options)
    return out.getvalue()


def repeated(text: str, times: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([text]))


def packed_stream(content: bytes, more: bytes = b"") -> bytes:
    packed = zlib.compress(content, 9)
    return b"<<%s/Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (more, len(packed), packed)


def as_pdf(*objects: bytes) -> bytes:
    out, places = bytearray(b"%PDF-1.5\n"), []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n"
    return bytes(out) + end % (len(places) + 1, table, len(places) + 1, len(out))


def pdf_of_pages(contents: bytes, n: int, resources: bytes = b"<</Font<</F 3 0 R>>>>", *more: bytes) -> bytes:
    """Return a PDF whose pages all have the same contents."""
    pages = b"<</Type/Pages/Count %d/Kids[%s]>>" % (n, b"5 0 R " * n)
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources%s/Contents 4 0 R>>" % resources
    return as_pdf(b"<</Type/Catalog/Pages 2 0 R>>", pages, FONT, packed_stream(contents), page, *more)


def pdf_of_forms(calls: int, lines: int) -> bytes:
    """Return a PDF of a page that draws one form many times."""
    form = b"/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Resources<</Font<</F 3 0 R>>>>"
    resources = b"<</Font<</F 3 0 R>>/XObject<</X 6 0 R>>>>"
    content = b"BT /F 12 Tf 10 700 Td %s ET" % (LINE * lines)
    return pdf_of_pages(b"/X Do " * calls, 1, resources, packed_stream(content, form))


def warc_record(body: bytes, length: int | None = None, headers: str = "Content-Type: text/plain\r\n") -> bytes:
    content = f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode() + body
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://mill/\r\n"
    head += "Content-Type: application/http; msgtype=response\r\n"
    head += f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
    return head.encode() + content + b"\r\n\r\n"


MESSAGE = b"""From: =?utf-8?q?M=C3=BChle?= <mill@example.org>
To: river@example.org
Subject: =?iso-8859-1?Q?Gem=FCse?=
Date: Mon, 02 Jan 2023 10:11:12 +0100
Message-ID: <1@example.org>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="a"

--a
Content-Type: multipart/alternative; boundary="b"

--b
Content-Type: text/plain; charset="iso-8859-1"
Content-Transfer-Encoding: quoted-printable

The m=FChle grinds.

>From the river:
> does it grind?
--b
Content-Type: text/html; charset="utf-8"

<p>The mill grinds.</p>
--b--
--a
Content-Type: application/pdf
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="a.pdf"

JVBERi0xLjQ=
--a--
"""
"""A message with an attachment, whose text is plain and HTML."""
FROM = b"From mill@example.org Mon Jan  2 10:11:12 2023\n"

GOOD = {name: content for name, content in WRITTEN.items() if name != "ndjson"} | {
    "txt": (SENTENCE * 20).encode(),
    "md": ("# Mühle\n\n" + SENTENCE * 5).encode("utf-16"),
    "py": b"topics = {'a': 'one' 'two', 'b': 'three', 'c': {'d': [1, 2.5, None]}}\n",
    "html": f"<html><head><title>Mill</title></head><body><p>{SENTENCE * 5}</p></body></html>".encode(),
    "yml": b"categories: [mill]\nconversations:\n- - Hello\n  - Hi\n- ['How \\u00e4?', \"so\"]\n- - |\n    a\n  - b\n",
    "pdf": pdf_of_pages(b"BT /F 12 Tf 10 700 Td %s ET" % (LINE * 9), 3),
    "eml": MESSAGE,
    "mbox": (FROM + MESSAGE + b"\n") * 3,
    "warc": warc_record(b"The mill grinds")
    + warc_record(b"<p>" + SENTENCE.encode() * 5, headers="Content-Type: text/html\r\n"),
}


def damaged(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of damaged files, n of each format, packed and not."""
    rng = random.Random(seed)
    for extension, content in GOOD.items():
        for number in range(n):
            packing = rng.choice([*PACK, "", "", ""])
            inside = rng.random() < 0.5  # packed after it was damaged, so that the damage reaches the reader
            broken = _damage(content, rng) if inside else content
            broken = PACK[packing](broken)
            yield f"{extension}-{number}.{extension}{packing}", broken if inside else _damage(broken, rng)


def _damage(content: bytes, rng: random.Random) -> bytes:
    bytes_ = bytearray(content)
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 3000))
    if kind == 1:
        return content[: rng.randrange(len(content))]
    if kind == 2:  # another order
        at = rng.randrange(len(content))
        return content[at:] + content[:at]
    if kind == 3:
        return content * rng.randrange(2, 5)
    for _ in range(rng.choice([1, 3, 20])):
        at = rng.randrange(len(bytes_))
        if kind == 4:
            bytes_[at] ^= 1 << rng.randrange(8)
        elif kind == 5:  # an offset or a length
            value = rng.choice([0, 1, 255, 2**31 - 1, 2**32 - 1, rng.randrange(2**32)])
            bytes_[at : at + 4] = value.to_bytes(4, "little")
        else:
            bytes_[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
    return bytes(bytes_)
