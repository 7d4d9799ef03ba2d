"""The records of a piece: read, checked for their text, and joined where the config groups them."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import BinaryIO, cast

from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.ingest.partitions import Piece
from pipelines.corpus.readers.formats import one_by_one, read_records
from pipelines.corpus.readers.records import MAX_WHOLE, Bad, Record, Records, Stream, no_column, shown

DEEP = "nested too deeply"
SHOWN = 2_000  # characters of an unreadable record that are kept to look at


def read_texts(piece: Piece) -> Iterator[Record | Records | Bad]:
    """Yield the records of a piece. Consecutive records of a group become one."""
    source = piece.source
    if not source.group_by:
        yield from _read(piece)
        return

    def key(record: Record | Bad) -> str | None:
        if isinstance(record, Bad):
            return None
        try:
            return json.dumps([record.fields[name] for name in source.group_by], default=str)
        except RecursionError:
            return None

    for group, members in groupby((usable(record, source) for record in one_by_one(_read(piece))), key):
        if group is None:
            yield from (member if isinstance(member, Bad) else _too_deep(member, source) for member in members)
            continue
        records, size = list[Record](), 0
        for member in cast("Iterator[Record]", members):
            size += len(member.fields[source.text])
            records += [member] if size <= MAX_WHOLE or not records else []
        first, *others = records
        if size > MAX_WHOLE:
            yield Bad(f"a group of {size:,} characters; the limit is {MAX_WHOLE:,}", first.location)
            continue
        text = source.separator.join(record.fields[source.text] for record in records)
        location = f"{first.location} to {others[-1].location.rpartition(' ')[2]}" if others else first.location
        yield Record(first.fields | {source.text: text}, location)


def _too_deep(record: Record, source: SourceConfig) -> Bad:
    return Bad(f"the columns to group by are {DEEP}", record.location, record.fields[source.text][:SHOWN])


def usable(record: Record | Bad, source: SourceConfig) -> Record | Bad:
    """Return the record if it has the text and the columns to group by, else a `Bad`."""
    if isinstance(record, Bad):
        return record
    fields, location = record
    text = fields.get(source.text)
    if isinstance(text, str):
        missing = [name for name in source.group_by if name not in fields]
        return Bad(f"no column {missing[0]!r} to group by", location, text) if missing else record
    if source.text not in fields:
        return Bad(no_column(source.text, fields), location, shown(fields)[:SHOWN])
    return Bad(f"column {source.text!r} holds {type(text).__name__}, not text", location, shown(fields)[:SHOWN])


def _read(piece: Piece) -> Iterator[Record | Records | Bad]:
    with piece.file.open() as file:
        stream = file
        if (end := piece.end) is not None:
            file.seek(piece.start)
            stream = cast(BinaryIO, Stream(lambda size: file.read(min(size, end - file.tell()))))
        yield from read_records(stream, piece.file.name, piece.source, piece.lines_before + 1)
    piece.file.check_unchanged()
