"""Readers: a file of some format becomes a stream of records.

`FORMATS` is the table; a new format is a function from an open file and the options to records, and a line in it.
A reader yields what it can: a `Bad` stands for a record that could not be read, and an exception ends the file with
all that came before kept. Compression is peeled off first, by the name's last suffix. Bytes that do not fit a text's
encoding arrive as lone surrogates (as of Python's `surrogateescape`), for the caller to count, reject or repair.
"""

from __future__ import annotations

import ast
import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet
import yaml
from charset_normalizer import from_bytes
from pydantic import Field

from gpt.config import Config
from pipelines.errors import InputError

MAX_LINE = 64 << 20  # bytes of one line of JSON Lines, or of one field of a CSV file
MAX_WHOLE = 256 << 20  # bytes of a file whose format can only be read whole
BUFFER = 1 << 20  # bytes that are read at once
HEAD = 1 << 16  # bytes by which an encoding is detected
BOMB_RATIO, BOMB_BYTES = 250, 256 << 20  # a file that unpacks to both of these is not text that somebody wrote


class Record(NamedTuple):
    """One record: its fields (plain text has one, `text`) and where in the file it stands."""

    fields: dict[str, Any]
    location: str


@dataclass(frozen=True)
class Records:
    """Consecutive records, such as a block of lines: of small ones there are too many for an object each."""

    fields: Sequence[dict[str, Any]]
    unit: str  # in which a file counts them
    first: int  # number of the first one

    def __len__(self) -> int:
        return len(self.fields)

    def __getitem__(self, part: slice) -> Records:
        return Records(self.fields[part], self.unit, self.first + part.indices(len(self))[0])

    def locations(self, before: str = "") -> pa.StringArray:
        numbers = pa.array(np.arange(self.first, self.first + len(self))).cast(pa.string())
        return pc.utf8_replace_slice(numbers, 0, 0, f"{before}{self.unit} ")

    @property
    def last_location(self) -> str:
        return f"{self.unit} {self.first + len(self) - 1}"

    def __iter__(self) -> Iterator[Record]:
        return map(Record, self.fields, self.locations().to_pylist())


class Bad(NamedTuple):
    """A record that could not be read, and why."""

    reason: str
    location: str
    text: str = ""


class UnreadableError(Exception):
    """The rest of the file cannot be read; the text says why."""


class ReadOptions(Config):
    """How to read a file."""

    format: str | None = Field(default=None, description="Format of the files; by default their extension says it.")
    encoding: str | None = Field(default=None, description="Encoding of text; by default it is detected.")
    split_at: str | None = Field(
        default=None, min_length=1, description="What stands between documents in a plain text file."
    )
    max_document: int = Field(
        default=10_000_000, gt=0, description="Characters after which plain text is cut, at the end of a paragraph."
    )
    columns: tuple[str, ...] = Field(
        default=(), description="Names of the columns, for CSV and TSV files without a header."
    )
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="What separates the fields of a CSV file."
    )

    @property
    def wanted(self) -> Collection[str]:
        """The columns that are made use of, where that is known: formats that store columns read no others."""
        return ()


# Of an open file and options; one that reads by line is told the number of the first one too.
Reader = Callable[..., Iterator["Record | Records | Bad"]]


@dataclass(frozen=True)
class Format:
    """A format: the extensions it goes by, its reader, and whether a part between two line ends can be read alone."""

    extensions: tuple[str, ...]
    read: Reader
    by_line: bool = False


def read_file(file: BinaryIO, name: str, options: ReadOptions, first_line: int = 1) -> Iterator[Record | Bad]:
    """The records of an open file, one by one; the rest is said of `read_records`."""
    return one_by_one(read_records(file, name, options, first_line))


def one_by_one(found: Iterable[Record | Records | Bad]) -> Iterator[Record | Bad]:
    """Records, consecutive ones taken apart."""
    for each in found:
        if isinstance(each, Records):
            yield from each
        else:
            yield each


def read_records(
    file: BinaryIO, name: str, options: ReadOptions, first_line: int = 1
) -> Iterator[Record | Records | Bad]:
    """The records of an open file, whose name or options say its format. Ends with a `Bad` if the file is broken.

    Args:
        first_line: the number of the file's first line, where it is a part of another that is read by line.

    Raises:
        InputError: there is no such format or encoding, or a package that the format needs is not installed.
        ConnectionError, OSError: it could not be read to its end, for which the file is not to blame.
    """
    try:
        compression, format_ = formats_of(name, options)
    except KeyError as unknown:
        yield Bad(f"no reader for .{unknown.args[0]}", "file")
        return
    last = "start"
    try:
        with _unpacked(file, compression) as stream:
            for record in format_.read(stream, options, *([first_line] if format_.by_line else [])):
                last = record.last_location if isinstance(record, Records) else record.location
                yield _shown(record) if isinstance(record, Bad) else record
    except ImportError as error:
        raise InputError(f"{name} needs the package {error.name}; pip install 'tokenmill[formats]'.") from None
    except (InputError, ConnectionError, MemoryError):
        raise
    except Exception as error:  # of whichever parser, about bytes that nobody foresaw
        if isinstance(error, OSError) and error.errno:
            raise  # the machine's fault and not the file's: a full disk, a broken one
        sentence = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        sentence = re.sub(" at 0x[0-9a-f]+", "", sentence)  # which is another one each time
        yield _shown(Bad(sentence, "file" if last == "start" else f"after {last}"))


def _shown(bad: Bad) -> Bad:
    """What can be written into a table: a `Bad` tells of text, and is none that could be repaired."""
    return Bad(*(SURROGATE.sub("\ufffd", each) for each in bad))


SURROGATE = re.compile("[\ud800-\udfff]")


def no_column(name: str, fields: Iterable[str]) -> str:
    """The sentence about a column that is not there."""
    return f"no column {name!r}; there are {SURROGATE.sub(chr(0xFFFD), ', '.join(fields))}"


def formats_of(name: str, options: ReadOptions) -> tuple[str | None, Format]:
    """Compression and format of a file.

    Raises:
        InputError: the options name a format that does not exist.
        KeyError: no reader takes files of this extension, which it names.
    """
    suffixes = [suffix.lower().lstrip(".") for suffix in PurePosixPath(name).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else None
    if options.format:
        if options.format not in FORMATS:
            raise InputError(f"There is no format {options.format!r}; known are {', '.join(FORMATS)}.")
        return compression, FORMATS[options.format]
    return compression, FORMATS[EXTENSIONS[suffixes[-1] if suffixes else ""]]


# Plain text, whole or in pieces


def read_text(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    text = _decoded(file, options)
    held, line = "", 1
    while True:
        block = text.read(1 << 20)
        held += block
        *whole, held = held.split(options.split_at) if options.split_at else [held]
        while len(held) > options.max_document:
            at = _cut(held, options.max_document)
            whole.append(held[:at])
            held = held[at:]
        if not block:
            whole.append(held)
        for piece in whole:
            yield Record({"text": piece}, f"line {line}")
            line += piece.count("\n")
            if options.split_at:
                line += options.split_at.count("\n")
        if not block:
            return


def _cut(text: str, limit: int) -> int:
    """Where to cut a text that is too long: behind the last paragraph, line, sentence or word of its second half."""
    for end in ("\n\n", "\n", ". ", " "):
        at = text.rfind(end, limit // 2, limit)
        if at >= 0:
            return at + len(end)
    return limit


def read_html(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    yield from _from_html(_whole(file), "file", options.encoding)


def _from_html(page: bytes, location: str, encoding: str | None) -> Iterator[Record | Bad]:
    import trafilatura

    content, n_broken = _page(page, encoding)
    found: Any = trafilatura.bare_extraction(content, with_metadata=True, include_comments=False)
    if not found or not found.text:
        yield Bad("no text in this page", location, page[:1000].decode("utf-8", "replace"))
    else:
        text = found.text.replace("\ufffd", "\udcff") if n_broken else found.text
        yield Record({"text": text, "title": found.title, "date": found.date}, location)


def _page(page: bytes, declared: str | None) -> tuple[str | bytes, int]:
    """A page's text and the number of its broken bytes, each a U+FFFD in it: the extractor takes no lone surrogates.

    A page whose encoding is not declared is left to the extractor to decode, unless it is UTF-8 with a little damage.
    """
    text, n_broken = UNDECODED.subn("\ufffd", _decode(page, declared or "utf-8"))
    if declared or (n_broken and len(NOT_ASCII.findall(text)) > 10 * n_broken):
        return text, n_broken
    return page, 0


NOT_ASCII = re.compile("[^\0-\x7f]")


def read_pdf(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    import pypdf
    from pypdf.errors import PyPdfError

    try:
        pages = pypdf.PdfReader(_seekable(file)).pages
        text = "\n\n".join(page.extract_text() for page in pages)
    except PyPdfError as error:
        raise UnreadableError(f"not a readable PDF: {error}") from None
    yield Record({"text": text, "pages": len(pages)}, "file")


def read_warc(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    try:
        for number, record in enumerate(ArchiveIterator(file), 1):
            if record.rec_type not in ("response", "conversion"):
                continue
            kind = (record.http_headers or record.rec_headers).get_header("Content-Type") or ""
            address = record.rec_headers.get_header("WARC-Target-URI")
            body = record.content_stream().read(MAX_LINE)
            if record.rec_type == "conversion" or kind.startswith("text/plain"):
                found: Iterable[Record | Bad] = [
                    Record({"text": _decode(body, options.encoding or "utf-8")}, f"record {number}")
                ]
            elif "html" in kind:
                found = _from_html(body, f"record {number}", options.encoding)
            else:
                continue
            for each in found:
                yield each._replace(fields={**each.fields, "url": address}) if isinstance(each, Record) else each
    except ArchiveLoadFailed as error:
        raise UnreadableError(f"not a readable WARC: {error}") from None


# Records


def read_json_lines(file: BinaryIO, options: ReadOptions, first_line: int = 1) -> Iterator[Record | Records | Bad]:
    number = first_line
    for lines in _lines(file, options):
        if isinstance(lines, Bad):
            yield lines._replace(location=f"line {number}")
            number += 1
        elif objects := _objects(lines):
            yield Records(objects, "line", number)
            number += len(objects)
        else:
            for line in lines.split(b"\n"):
                if line.strip():
                    yield _record(line, f"line {number}")
                number += 1


def _objects(lines: bytes) -> list[dict[str, Any]]:
    """The objects on lines of JSON, of which there is one on each; none if anything else is on one of them.

    They are parsed at once, as a list with a number for each line end that is on no line: so what runs over two lines
    is seen.
    """
    try:
        values = orjson.loads(b"[%s]" % lines.replace(b"\n", b",%d," % NUMBER))
    except orjson.JSONDecodeError:
        return []
    objects, ends = values[::2], values[1::2]
    whole = ends.count(NUMBER) == len(ends) == count_line_ends(lines) and set(map(type, objects)) == {dict}
    return objects if whole else []


NUMBER = secrets.randbits(53)  # which nobody can have written


def _record(line: bytes, location: str) -> Record | Bad:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError as strict:
        try:  # Python's parser takes NaN and lone surrogates, and bytes in the wrong encoding once they are decoded
            fields = json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError):
            return Bad(f"not JSON: {strict}", location, line[:1000].decode("utf-8", "replace"))
    if not isinstance(fields, dict):
        return Bad("not a JSON object", location, line[:1000].decode("utf-8", "replace"))
    return Record(fields, location)


def read_json(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    try:
        value = json.loads(_decoded(io.BytesIO(_whole(file)), options).read())
    except RecursionError:
        raise UnreadableError("JSON nested too deeply") from None
    for number, fields in enumerate(value if isinstance(value, list) else [value], 1):
        if isinstance(fields, dict):
            yield Record(fields, f"record {number}")
        else:
            yield Bad("not a JSON object", f"record {number}", str(fields)[:1000])


def read_csv(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    return _read_csv(file, options, options.delimiter or ",")


def read_tsv(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    return _read_csv(file, options, options.delimiter or "\t")


def _read_csv(file: BinaryIO, options: ReadOptions, delimiter: str) -> Iterator[Record | Bad]:
    csv.field_size_limit(MAX_LINE)
    rows = csv.reader(_bounded_lines(_decoded(file, options, newline="")), delimiter=delimiter)
    try:
        names = list(options.columns) or next(rows, [])
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UnreadableError(f"two columns are called {twice[0]!r}")
        while True:
            line = rows.line_num + 1
            row = next(rows, None)
            if row is None:
                return
            if len(row) == len(names):
                yield Record(dict(zip(names, row, strict=True)), f"line {line}")
            elif row:
                reason = f"{len(row)} fields where {len(names)} are expected"
                yield Bad(reason, f"line {line}", delimiter.join(row)[:1000])
    except csv.Error as error:
        raise UnreadableError(f"not CSV at line {rows.line_num + 1}: {error}") from None


def _bounded_lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
            raise UnreadableError(f"a line of more than {MAX_LINE:,} characters")
        yield line


def read_parquet(file: BinaryIO, options: ReadOptions) -> Iterator[Records]:
    seekable = _seekable(file)
    parquet = pyarrow.parquet.ParquetFile(pa.PythonFile(seekable, mode="r"), pre_buffer=False)
    columns = _columns(parquet.schema_arrow, options)
    groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
    _refuse_bomb(sum(group.total_byte_size for group in groups), seekable.seek(0, io.SEEK_END))
    yield from _rows(parquet.iter_batches(batch_size=256, columns=columns))


def read_arrow(file: BinaryIO, options: ReadOptions) -> Iterator[Records]:
    seekable = _seekable(file)
    is_file = seekable.read(6) == b"ARROW1"
    seekable.seek(0)
    if is_file:
        reader = pa.ipc.open_file(seekable)
        columns = _columns(reader.schema, options)
        yield from _rows(reader.get_batch(i).select(columns) for i in range(reader.num_record_batches))
    else:
        stream = pa.ipc.open_stream(seekable)
        columns = _columns(stream.schema, options)
        yield from _rows(batch.select(columns) for batch in stream)


def _columns(schema: pa.Schema, options: ReadOptions) -> list[str]:
    """The columns to read: the wanted ones, or if one of them is not there, all, so that it can be said which are.

    Raises:
        UnreadableError: two have the same name.
    """
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise UnreadableError(f"two columns are called {twice[0]!r}")
    if options.wanted and set(options.wanted) <= set(schema.names):
        return [name for name in schema.names if name in options.wanted]
    return list(schema.names)


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Records]:
    first = 1
    for batch in batches:
        for start in range(0, len(batch), 256):
            records = Records(batch.slice(start, 256).to_pylist(), "row", first)
            yield records
            first += len(records)


def read_conversations(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """YAML with `conversations`, each a list of what was said in turn, and optionally `categories`."""
    try:
        text = _decoded(io.BytesIO(_whole(file)), options).read()
        value = yaml.load(text, _Texts)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise UnreadableError(f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UnreadableError("YAML nested too deeply") from None
    conversations = value.get("conversations") if isinstance(value, dict) else value
    if not isinstance(conversations, list):
        raise UnreadableError("no list of conversations in this file")
    categories = value.get("categories") if isinstance(value, dict) else None
    for number, turns in enumerate(conversations, 1):
        if isinstance(turns, list) and len(turns) > 1 and all(isinstance(turn, str) for turn in turns):
            yield Record({"messages": turns, "categories": categories}, f"conversation {number}")
        else:
            yield Bad("not a list of two or more turns", f"conversation {number}", str(turns)[:1000])


class _Texts(yaml.SafeLoader):
    """Reads every scalar as the text that stands there: `Yes` is an answer, and 1.10 is not 1.1."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few bytes of them unfold to more than memory holds
            raise yaml.YAMLError("an alias (*), which is not read")
        return super().compose_node(parent, index)


_Texts.yaml_implicit_resolvers = {}


def read_python_dict(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """A Python file that assigns a literal dict of texts to a name; each entry is a record. Nothing is executed."""
    try:
        tree = ast.parse(_whole(file))
        values = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
        entries = [item for value in values for item in ast.literal_eval(value).items()]
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise UnreadableError(f"not a Python file of literals: {error}") from None
    for key, text in ((SURROGATE.sub("\ufffd", str(key)), text) for key, text in entries):
        if isinstance(text, str):
            yield Record({"key": key, "text": text}, f"entry {key}")
        else:
            yield Bad("the value is not a text", f"entry {key}", str(text)[:1000])


# From bytes to text


def _decoded(file: BinaryIO, options: ReadOptions, newline: str | None = None) -> io.TextIOWrapper:
    buffered = _buffered(file)
    encoding = detect_encoding(buffered.peek(HEAD)[:HEAD], options.encoding)
    return io.TextIOWrapper(buffered, encoding, _errors(encoding), newline)


def _decode(content: bytes, declared: str) -> str:
    encoding = detect_encoding(b"", declared)
    return content.decode(encoding, _errors(encoding))


def _errors(encoding: str) -> str:
    return "surrogateescape" if encoding.startswith("utf-8") else UNDECODABLE


def _to_surrogates(error: UnicodeError) -> tuple[str, int]:
    """A lone surrogate for each byte that is in no character. Python's own handler takes no bytes below 128."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC80 | byte) for byte in error.object[error.start : error.end]), error.end


UNDECODABLE = "tokenmill.undecodable"
codecs.register_error(UNDECODABLE, _to_surrogates)


def _buffered(file: BinaryIO) -> io.BufferedReader:
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file), BUFFER)


def detect_encoding(head: bytes, declared: str | None = None) -> str:
    """The encoding of a file by its first bytes, unless one is declared.

    Raises:
        InputError: Python does not know the declared encoding.
        UnreadableError: the bytes are not text.
    """
    if declared:
        try:
            name = codecs.lookup(declared).name
            io.TextIOWrapper(io.BytesIO(), name)  # refuses what is no encoding of text, such as hex
        except LookupError:
            raise InputError(
                f"There is no encoding {declared!r}; Python's names are meant, such as utf-8 or cp1252."
            ) from None
        return "utf-8-sig" if name == "utf-8" else name
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        # Latin letters in UTF-16 have a zero as every other byte, and whatever the script, spaces and line ends have.
        even, odd = head[::2].count(0), head[1::2].count(0)
        utf_16 = "utf-16-be" if even > odd else "utf-16-le"
        if max(even, odd) > 0.4 * len(head) / 2 and min(even, odd) < 0.05 * len(head) / 2:
            return utf_16
        if min(even, odd) == 0 and _is_text(head, utf_16):
            return utf_16
        raise UnreadableError("binary, not text")
    if sum(head.count(byte) for byte in CONTROLS) > 0.05 * len(head):
        raise UnreadableError("binary, not text")
    n_broken = len(UNDECODED.findall(head.decode("utf-8", "surrogateescape")))
    if n_broken <= 3 or n_broken < 0.001 * len(head):  # the head may end within a character, or a few bytes be damaged
        return "utf-8-sig"
    guess = from_bytes(head).best()
    if guess is None:
        raise UnreadableError("text in no known encoding")
    return guess.encoding


def _is_text(head: bytes, encoding: str) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)  # which may end within a character
    except UnicodeDecodeError:
        return False
    return sum(letter.isprintable() or letter.isspace() for letter in text) > 0.98 * len(text)


MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UNDECODED = re.compile("[\udc80-\udcff]")
CONTROLS = [bytes([code]) for code in (*range(9), *range(14, 27), *range(28, 32))]


def _lines(file: BinaryIO, options: ReadOptions) -> Iterator[bytes | Bad]:
    """Some lines at a time, in UTF-8; one that is too long comes as a `Bad` and is never held in memory."""
    buffered = _buffered(file)
    encoding = detect_encoding(buffered.peek(HEAD)[:HEAD], options.encoding)
    if encoding in ("utf-8-sig", "ascii"):
        buffered.read(len(codecs.BOM_UTF8) if buffered.peek(3).startswith(codecs.BOM_UTF8) else 0)
        blocks = iter(lambda: buffered.read1(BUFFER), b"")
    else:
        text = io.TextIOWrapper(buffered, encoding, _errors(encoding), "\n")
        blocks = iter(lambda: UNDECODED.sub("\udcff", text.read(BUFFER)).encode("utf-8", "surrogateescape"), b"")
    begun: list[bytes] = []  # the line whose end is yet to come
    size = 0
    for block in blocks:
        if size >= MAX_LINE and (after := block.find(b"\n") + 1):
            yield _too_long(begun)
            block, begun, size = block[after:], [], 0
        lines, end, rest = block.rpartition(b"\n")
        if end:
            yield b"".join([*begun, lines])
            begun, size = [], 0
        begun.append(rest)
        size += len(rest)
        if size >= MAX_LINE:
            begun = [b"".join(begun)[:1000]]
    if size:
        yield _too_long(begun) if size >= MAX_LINE else b"".join(begun)


def count_line_ends(block: bytes) -> int:
    """How many lines end in it; several times as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))


def _too_long(begun: list[bytes]) -> Bad:
    return Bad(f"a line of more than {MAX_LINE:,} bytes", "", b"".join(begun)[:1000].decode("utf-8", "replace"))


def _whole(file: BinaryIO) -> bytes:
    content = bytearray()
    while block := file.read(1 << 20):
        content += block
        if len(content) > MAX_WHOLE:
            raise UnreadableError(f"larger than {MAX_WHOLE:,} bytes, and this format can only be read whole")
    return bytes(content)


def _seekable(file: BinaryIO) -> BinaryIO:
    if file.seekable():
        return file
    spool = tempfile.SpooledTemporaryFile(MAX_LINE)  # noqa: SIM115
    while block := file.read(1 << 20):
        spool.write(block)
    spool.seek(0)
    return cast(BinaryIO, spool)


# Compression


class _Unpacked(io.RawIOBase):
    """A decompressed stream that refuses to grow without end out of a few bytes."""

    def __init__(self, stream: Any, packed: BinaryIO) -> None:
        self._stream, self._packed, self._bytes = stream, packed, 0
        self._break: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; at a break in the file, hand over what came before it first."""
        filled = 0
        try:
            if self._break:
                raise self._break
            while filled < len(buffer) and (block := self._stream.read1(len(buffer) - filled)):
                buffer[filled : filled + len(block)] = block
                filled += len(block)
                self._bytes += len(block)
        except Exception as error:
            if not filled:
                raise
            self._break = error
        if self._bytes > BOMB_BYTES:
            _refuse_bomb(self._bytes, self._packed.tell())
        return filled


def _refuse_bomb(unpacked: int, packed: int) -> None:
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * max(packed, 1):
        raise UnreadableError(f"a decompression bomb: unpacks to more than {BOMB_RATIO} times its size")


class _Streams:
    """Packed streams, one behind the other. Python's own readers pass over one that is broken behind a whole one."""

    def __init__(self, file: BinaryIO, decompressor: Callable[[], Any]) -> None:
        self._file, self._new, self._stream = file, decompressor, decompressor()

    def read1(self, size: int) -> bytes:
        """Some bytes, and none at the end."""
        while True:
            packed = b""
            if self._stream.eof:
                packed = self._stream.unused_data.lstrip(b"\0")  # zeros fill up a block or a tape
                while not packed:
                    if not (packed := self._file.read(BUFFER)):
                        return b""
                    packed = packed.lstrip(b"\0")
                self._stream = self._new()
            elif self._stream.needs_input and not (packed := self._file.read(BUFFER)):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            if block := self._stream.decompress(packed, size):
                return cast(bytes, block)


def _unpacked(file: BinaryIO, compression: str | None) -> BinaryIO:
    if compression is None:
        return file
    return cast(BinaryIO, io.BufferedReader(_Unpacked(COMPRESSIONS[compression](file), file), BUFFER))


COMPRESSIONS: dict[str, Callable[[BinaryIO], Any]] = {
    "gz": lambda file: gzip.GzipFile(fileobj=file),
    "bz2": lambda file: _Streams(file, bz2.BZ2Decompressor),
    "xz": lambda file: _Streams(file, lzma.LZMADecompressor),
    "zst": lambda file: pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"),
}

# The table

CODE = "py pyi c h cc cpp hpp cs java kt scala js jsx ts tsx go rs rb php swift lua pl r jl sh sql css toml ini cfg tex"

FORMATS: dict[str, Format] = {
    "text": Format(("txt", "text", "rst", ""), read_text),
    "markdown": Format(("md", "markdown"), read_text),
    "code": Format(tuple(CODE.split()), read_text),
    "html": Format(("html", "htm", "xhtml"), read_html),
    "json": Format(("json",), read_json),
    "jsonl": Format(("jsonl", "ndjson"), read_json_lines, by_line=True),
    "csv": Format(("csv",), read_csv),
    "tsv": Format(("tsv", "tab"), read_tsv),
    "parquet": Format(("parquet", "pq"), read_parquet),
    "arrow": Format(("arrow", "feather", "ipc"), read_arrow),
    "conversations": Format(("yml", "yaml"), read_conversations),
    "pdf": Format(("pdf",), read_pdf),
    "warc": Format(("warc",), read_warc),
    "python-dict": Format((), read_python_dict),
}
EXTENSIONS = {extension: name for name, format_ in FORMATS.items() for extension in format_.extensions}
