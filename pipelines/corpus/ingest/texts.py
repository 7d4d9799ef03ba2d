"""The records of a piece: read, checked for their text, and joined where the config groups them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, BinaryIO, cast

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.ingest.partitions import Piece
from pipelines.corpus.readers.formats import FORMATS, one_by_one, read_records, split_name
from pipelines.corpus.readers.look import Look, look
from pipelines.corpus.readers.processes import Queue
from pipelines.corpus.readers.records import (
    MAX_WHOLE,
    Bad,
    Record,
    Records,
    Stream,
    UnreadableError,
    no_column,
    show,
    to_seekable,
)
from pipelines.corpus.turns import read_turns

AHEAD = 16  # files that a reader process is asked for
DEEP = "nested too deeply"
SHOWN = 2_000  # characters of an unreadable record that are kept to look at


def read_pieces(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Iterator[Record | Records | Bad]]]:
    """Yield each piece, looked at, with its records. A reader process is asked for some files in advance."""
    opened: dict[int, Opened] = {}
    asked = 0
    with ExitStack() as files, Queue() as queue:
        for number, piece in enumerate(pieces):
            while asked < min(number + AHEAD, len(pieces)):
                if _may_read_elsewhere(later := pieces[asked]):
                    opened[asked] = found = _open(later)
                    files.enter_context(found.file)
                    if not found.problem and FORMATS[found.look.options.format or ""].isolated:
                        queue.ask(found.file, later.file.name, found.look.options)
                asked += 1
            at_hand = opened.pop(number) if number in opened else _open(piece)
            yield replace(piece, look=at_hand.look), read_texts(piece, at_hand, queue)


@dataclass(frozen=True)
class Opened:
    """An open file, and how it is read, or why it cannot be."""

    file: BinaryIO
    look: Look
    problem: str = ""


def _open(piece: Piece) -> Opened:
    file = to_seekable(piece.file.open())
    if piece.look:
        return Opened(file, piece.look)
    try:
        return Opened(file, look(file, piece.file.name, piece.source))
    except UnreadableError as error:
        return Opened(file, Look(piece.source), str(error))


def _may_read_elsewhere(piece: Piece) -> bool:
    """Return whether by its name a process reads the piece, and its file takes no memory while it waits."""
    format_ = piece.source.format or split_name(piece.file.name)[1]
    return "://" not in piece.file.uri and format_ is not None and FORMATS[format_].isolated


def read_texts(
    piece: Piece, opened: Opened | None = None, queue: Queue | None = None
) -> Iterator[Record | Records | Bad]:
    """Yield the records of a piece. Consecutive records of a group become one.

    Args:
        opened: the file of the piece if it is open already; it is closed.
        queue: the files that a reader process is asked for, which may have this file.
    """
    source = piece.source
    if not source.group_by:
        yield from _read(piece, opened, queue)
        return

    def key(record: Record | Bad) -> str | None:
        if isinstance(record, Bad):
            return None
        try:
            return json.dumps([record.fields[name] for name in source.group_by], default=str)
        except RecursionError:
            return None

    records = one_by_one(_read(piece, opened, queue))
    for group, members in groupby((usable(record, source) for record in records), key):
        if group is None:
            yield from (member if isinstance(member, Bad) else _too_deep(member, source) for member in members)
            continue
        yield _joined(cast("Iterator[Record]", members), source)


def _joined(members: Iterator[Record], source: SourceConfig) -> Record | Bad:
    """Return the document of a group's records."""
    first = last = next(members)
    texts, size = [first.fields[source.text]], len(first.fields[source.text])
    for last in members:
        text = last.fields[source.text]
        size += len(text)
        texts += [text] if size <= MAX_WHOLE else []
    if size > MAX_WHOLE:
        return Bad(f"a group of {size:,} characters; the limit is {MAX_WHOLE:,}", first.location)
    location = first.location if last is first else f"{first.location} to {last.location.rpartition(' ')[2]}"
    return Record(first.fields | {source.text: source.separator.join(texts)}, location)


def _too_deep(record: Record, source: SourceConfig) -> Bad:
    return Bad(f"the columns to group by are {DEEP}", record.location, record.fields[source.text][:SHOWN])


def usable(record: Record | Bad, source: SourceConfig) -> Record | Bad:
    """Return the record if it has the text and the columns to group by, else a `Bad`."""
    if isinstance(record, Bad):
        return record
    fields, location = record
    text = spoken_text(fields.get(source.text))
    if isinstance(text, str):
        if len(text) > MAX_WHOLE:
            return Bad(f"a text of more than {MAX_WHOLE:,} characters", location, text[:SHOWN])
        missing = [name for name in source.group_by if name not in fields]
        if missing:
            return Bad(f"no column {missing[0]!r} to group by", location, text)
        return record if fields[source.text] is text else Record(fields | {source.text: text}, location)
    if source.text not in fields:
        return Bad(no_column(source.text, fields), location, show(fields, SHOWN))
    return Bad(f"column {source.text!r} holds {type(text).__name__}, not text", location, show(fields, SHOWN))


def spoken_text(value: Any) -> Any:
    """Return the text of all turns of a conversation, and any other value as it is."""
    if not isinstance(value, list | tuple | dict):
        return value
    try:
        return "\n\n".join(message.content for message in read_turns(value)[0] if message.content)
    except ValueError:
        return value


def _read(piece: Piece, opened: Opened | None, queue: Queue | None) -> Iterator[Record | Records | Bad]:
    opened = opened or _open(piece)
    with opened.file as file:
        stream = file
        if opened.problem:
            yield Bad(opened.problem, "file")
            return
        if (end := piece.end) is not None:
            file.seek(piece.start)
            stream = cast(BinaryIO, Stream(lambda size: file.read(min(size, end - file.tell()))))
        yield from read_records(stream, piece.file.name, opened.look.options, piece.lines_before + 1, queue)
    piece.file.check_unchanged()
