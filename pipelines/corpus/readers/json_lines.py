"""A reader of JSON Lines, and the guess whether a file is JSON or JSON Lines."""

import codecs
import io
import secrets
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import orjson

from pipelines.corpus.readers.encoding import HEAD, UNDECODED, detect_encoding, errors_of, to_buffered
from pipelines.corpus.readers.json_values import DECODER, is_cut, reason_of
from pipelines.corpus.readers.records import BUFFER, MAX_LINE, Bad, ReadOptions, Record, Records
from pipelines.corpus.readers.weight import too_heavy

LINES = 20  # that are looked at to tell JSON Lines from JSON
NUMBER = secrets.randbits(53)  # nobody can have written this number


def read_json_lines(file: BinaryIO, options: ReadOptions, first_line: int = 1) -> Iterator[Record | Records | Bad]:
    """Read one JSON object per line, many lines at a time."""
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
    """Return the objects on lines of JSON, or none if any line holds anything except one object.

    All lines are parsed at once, as a list with a number for each line end. So an object that runs over two
    lines is noticed.
    """
    if too_heavy(lines):
        return []
    try:
        values = orjson.loads(b"[%s]" % lines.replace(b"\n", b",%d," % NUMBER))
    except orjson.JSONDecodeError:
        return []
    objects, ends = values[::2], values[1::2]
    whole = ends.count(NUMBER) == len(ends) == count_line_ends(lines) and set(map(type, objects)) == {dict}
    return objects if whole else []


def _record(line: bytes, location: str) -> Record | Bad:
    if too_heavy(line):
        return Bad("a line of too many values", location, line[:1000].decode("utf-8", "replace"))
    line = line.removeprefix(codecs.BOM_UTF8).strip(b"\x1e \t\r").removesuffix(b",")
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:  # Python's parser takes NaN and lone surrogates, and bytes in the wrong encoding once they are decoded
            text = line.decode("utf-8", "surrogateescape")
            fields = DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            return Bad(reason_of(error, text), location, text[:1000])
    if not isinstance(fields, dict):
        return Bad("not a JSON object", location, line[:1000].decode("utf-8", "replace"))
    return Record(fields, location)


def _lines(file: BinaryIO, options: ReadOptions) -> Iterator[bytes | Bad]:
    """Yield some lines at a time, in UTF-8. A line that is too long becomes a `Bad` and is never held in memory."""
    buffered = to_buffered(file)
    encoding = detect_encoding(buffered.peek(HEAD)[:HEAD], options.encoding)
    if encoding in ("utf-8-sig", "ascii"):
        buffered.read(len(codecs.BOM_UTF8) if buffered.peek(3).startswith(codecs.BOM_UTF8) else 0)
        blocks = iter(lambda: buffered.read1(BUFFER), b"")
    else:
        text = io.TextIOWrapper(buffered, encoding, errors_of(encoding), "\n")
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
    """Count the line ends in a block, several times as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))


def _too_long(begun: list[bytes]) -> Bad:
    return Bad(f"a line of more than {MAX_LINE:,} bytes", "", b"".join(begun)[:1000].decode("utf-8", "replace"))


def guess_shape(head: str) -> str | None:
    """Return by the first characters of a file whether it is json or jsonl, or None if they do not say it."""
    text = head.lstrip("\ufeff\x1e \t\r\n")
    first, _, rest = text.partition("\n")
    try:
        value, end = DECODER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        if text.startswith("["):
            return "json"
        value, end = None, len(text) if rest and is_cut(error, text) else 0
    if end <= len(first) and isinstance(value, list):
        return "jsonl" if rest.strip() else "json"
    if end <= len(first) and value is not None:
        if first[end:].lstrip(" \t\r\x1e,").startswith("{"):
            return "json"  # objects one behind the other
        return "jsonl" if rest.strip() else None
    if text.startswith("{") and any(map(_is_object, rest.split("\n")[:LINES])):
        return "jsonl"  # whose first line is broken
    return "json" if end > len(first) else None


def _is_object(line: str) -> bool:
    try:
        return isinstance(DECODER.decode(line), dict) if line.startswith("{") else False
    except (ValueError, RecursionError):
        return False
