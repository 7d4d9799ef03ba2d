"""The first pass of ingest: a partition's files become clean, hashed documents."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.cleaning import clean
from pipelines.corpus.contamination import Passages, cut
from pipelines.corpus.documents import (
    DOCUMENTS,
    REJECTED,
    SPLITS,
    document_id,
    name_texts,
    normalise,
    normalise_all,
    split_of,
    text_array,
)
from pipelines.corpus.duplicates import write_signatures
from pipelines.corpus.ingest.config import IngestConfig, SourceConfig
from pipelines.corpus.ingest.partitions import Partition, Piece
from pipelines.corpus.parquet import ROW_BYTES, TableWriter, read_rows, read_some_rows
from pipelines.corpus.quality import bad_words_of, judged, rules_of
from pipelines.corpus.readers.formats import one_by_one, read_records
from pipelines.corpus.readers.records import SURROGATE, Bad, Record, Records, no_column
from pipelines.corpus.sources import File, Skipped, list_files
from pipelines.errors import InputError
from pipelines.store.files import link_or_copy
from pipelines.store.partitions import mark_done, read_done

BATCH_BYTES = 2 << 20  # of text that is handled at once


SHOWN = 2_000  # characters of an unreadable record that are kept to look at


# The first pass: read


@dataclass(frozen=True)
class Part:
    """Two files of documents, those that were read and those that were rejected, and what they count."""

    documents: Path
    rejected: Path
    counts: Counter[str]
    usable: Counter[str]
    problem: str = ""
    previous: Path | None = None
    dropped_before: tuple[int, ...] = ()


def read_partition(partition: Partition) -> list[Part]:
    """Read a partition's files into one or more parts of limited size. Done once, even if the run was killed after."""
    if (done := read_done(partition.folder)) is not None:
        return [_part_from_json(part) for part in done]
    partition.folder.mkdir(parents=True, exist_ok=True)
    parts = list(_restore(partition) if partition.known else _read(partition))
    if partition.config.near_duplicates is not None:
        for part in parts:
            write_signatures(part.documents)
    paths = ("documents", "rejected", "previous")
    mark_done(
        partition.folder,
        [part.__dict__ | {name: str(path) for name in paths if (path := getattr(part, name))} for part in parts],
    )
    return parts


def _restore(partition: Partition) -> Iterator[Part]:
    """What reading the partition gave an earlier version: what that kept, and what it then dropped, in one order."""
    assert partition.known
    corpus, entries = partition.known
    for i, entry in enumerate(entries):
        kept = corpus / "documents" / f"part-{entry.number:05d}.parquet"
        documents, rejected = (partition.folder / f"{what}-{i:05d}.parquet" for what in ("documents", "rejected"))
        before = corpus / "rejected.parquet"
        with TableWriter(rejected, REJECTED) as table:
            for row in read_some_rows(before, entry.first_rejected, entry.rejected):
                table.write(row)
        if entry.dropped:
            dropped = read_some_rows(before, entry.first_rejected + entry.rejected, len(entry.dropped))
            rows = read_rows(kept)
            with TableWriter(documents, columns_of(partition.config)) as table:
                for place, row in zip(entry.dropped, dropped, strict=True):
                    for between in islice(rows, place - table.rows):
                        table.write(between)
                    split, n_bytes = split_of(row["doc_id"], partition.config.split), len(row["text"].encode())
                    table.write(row | {"split": split, "n_bytes": n_bytes})
                for row in rows:
                    table.write(row)
        else:
            link_or_copy(kept, documents)
        yield Part(
            documents, rejected, Counter(entry.counts), Counter(entry.usable), entry.problem, kept, entry.dropped
        )


def _read(partition: Partition) -> Iterator[Part]:
    batches = _batches(partition)
    for number, first in enumerate(batches):
        good_path, bad_path = (partition.folder / f"{what}-{number:05d}.parquet" for what in ("documents", "rejected"))
        part = Part(good_path, bad_path, Counter(), Counter())
        columns = columns_of(partition.config)
        with TableWriter(good_path, columns) as good, TableWriter(bad_path, REJECTED) as bad:
            for documents, batch in chain([first], batches):
                good.write_batch(documents)
                for row in batch.rejected:
                    bad.write(row)
                part.counts.update(batch.counts)
                part.counts.update(sizes_of(documents))
                usable = documents["source"].value_counts().to_pylist()
                part.usable.update({each["values"]: each["counts"] for each in usable})
                if batch.rejected and not part.problem:
                    row = batch.rejected[0]
                    part = replace(part, problem=f"{row['location']}: {row['reason']}")
                if good.text_bytes + bad.text_bytes >= partition.config.partition_bytes:
                    break
        yield part


def _part_from_json(part: dict[str, Any]) -> Part:
    return Part(
        Path(part["documents"]),
        Path(part["rejected"]),
        Counter(part["counts"]),
        Counter(part["usable"]),
        part["problem"],
        Path(part["previous"]) if part["previous"] else None,
        tuple(part["dropped_before"]),
    )


def columns_of(config: IngestConfig) -> pa.Schema:
    """The columns of a corpus: a couple of dozen statistics cost time in every row, though they be null."""
    return DOCUMENTS if config.keep else DOCUMENTS.remove(DOCUMENTS.get_field_index("statistics"))


Strings = list[str | pa.StringArray]


@dataclass
class Batch:
    """What came of some records: documents, in columns since there may be many million small ones, and `rejected`.

    In columns of `Strings` stand single values beside arrays of the values of many documents.
    """

    text: list[bytes] = field(default_factory=list)
    source: Strings = field(default_factory=list)
    location: Strings = field(default_factory=list)
    metadata: Strings = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    size: int = 0

    def reject(self, piece: Piece, record: Record | Bad, reason: str, text: str, **more: Any) -> None:
        location = f"{piece.file.name} {record.location}"
        row = {"source": piece.source.label, "location": location, "reason": reason, "text": text}
        self.rejected.append(row | more)
        self.size += ROW_BYTES + len(text)

    def documents(self, config: IngestConfig) -> pa.RecordBatch:
        """Rows of `documents`, but for their statistics."""
        doc_ids, splits = name_texts(self.text, config.split)
        texts = text_array(self.text)
        columns = {
            "doc_id": doc_ids,
            "source": _joined(self.source),
            "location": _joined(self.location),
            "split": splits,
            "text": texts,
            "n_bytes": pc.binary_length(texts).cast(pa.int64()),
            "language": pa.nulls(len(texts), pa.string()),
            "metadata": _joined(self.metadata),
        }
        if config.language:
            columns["language"] = pa.array([language_of(text.decode()) for text in self.text], pa.string())
        return pa.RecordBatch.from_pydict(columns)


def _joined(column: Strings) -> pa.StringArray:
    arrays: list[pa.StringArray] = []
    for single, values in groupby(column, lambda value: isinstance(value, str)):
        run = list(values)
        arrays += [pa.array(run, pa.string())] if single else run
    return pa.concat_arrays(arrays or [pa.array([], pa.string())])


def _batches(partition: Partition) -> Iterator[tuple[pa.RecordBatch, Batch]]:
    """The documents of a partition, cleaned and judged, and what else came of the records."""
    config = partition.config
    rules = rules_of(config.keep)
    bad_words = _bad_words(tuple(list_files(config.bad_words)[0])) if config.bad_words else ()
    held_out = tuple(Piece(source, file) for source in config.decontaminate for file in list_files(source.uri)[0])
    passages = _passages(held_out, config.passage_words) if held_out else None
    limit = min(BATCH_BYTES, config.partition_bytes)

    def finished(batch: Batch) -> tuple[pa.RecordBatch, Batch]:
        documents, broken = judged(batch.documents(config), rules, bad_words)
        if broken.null_count < len(documents):
            turned_away = documents.filter(broken.is_valid()).to_pylist()
            reasons = broken.drop_null().to_pylist()
            for row, rule in zip(turned_away, reasons, strict=True):
                batch.rejected.append(row | {"reason": f"quality: {rule}"})
            documents = documents.filter(broken.is_null())
        return documents, batch

    batch = Batch()
    for piece in partition.pieces:
        for found in _texts(piece):
            left = found if isinstance(found, Records) else [found]
            while left:
                left = _take(left, piece, config, passages, batch, limit)
                if batch.size >= limit:
                    yield finished(batch)
                    batch = Batch()
    if batch.size:
        yield finished(batch)


Some = Records | list[Record | Bad]


def _take(
    records: Some, piece: Piece, config: IngestConfig, passages: Passages | None, batch: Batch, limit: int
) -> Some:
    """Put the documents in records into a batch, cleaned, until it is full; returns the records that are left."""
    if isinstance(records, Records) and not config.clean and not passages:
        fitting = records[: 1 + (limit - batch.size) // ROW_BYTES]
        if texts := _plain_texts(fitting.fields, piece.source.text):
            return records[_take_texts(texts, fitting, piece, batch, limit) :]
    left = iter(records)
    for record in left:
        _take_one(record, piece, config, passages, batch)
        if batch.size >= limit:
            break
    return list(left)


def _plain_texts(records: Sequence[dict[str, Any]], column: str) -> list[bytes]:
    """The normalised texts of records; none of them if anything is to be said of one."""
    try:
        plain = normalise_all(list(map(itemgetter(column), records)))
    except (KeyError, TypeError, UnicodeEncodeError):  # there is no such column, or it holds no text
        return []
    return plain if all(plain) else []


def _take_texts(texts: list[bytes], records: Records, piece: Piece, batch: Batch, limit: int) -> int:
    """Put the texts of records into a batch until it is full; returns how many."""
    source = piece.source
    ends = batch.size + np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + ROW_BYTES)
    taken = min(int(np.searchsorted(ends, limit)) + 1, len(texts))  # the last one is that which fills it
    batch.text += texts[:taken]
    batch.source.append(pa.repeat(source.label, taken))
    batch.location.append(records[:taken].locations(f"{piece.file.name} "))
    if source.kept:
        batch.metadata += [_metadata(fields, source.kept) for fields in records.fields[:taken]]
    else:
        batch.metadata.append(pa.repeat("{}", taken))
    batch.size = int(ends[taken - 1])
    return taken


def _take_one(
    record: Record | Bad, piece: Piece, config: IngestConfig, passages: Passages | None, batch: Batch
) -> None:
    """Put the document in a record into a batch, cleaned, and what was rejected of it."""
    source = piece.source
    if isinstance(record, Bad) or not isinstance(text := record.fields.get(source.text), str):
        bad = cast(Bad, _usable(record, source))
        return batch.reject(piece, bad, bad.reason, SURROGATE.sub("\ufffd", bad.text)[:SHOWN])
    try:
        text = normalise(text)
    except UnicodeEncodeError:
        text, undecodable = SURROGATE.subn("\ufffd", text)
        batch.counts["undecodable"] += undecodable
        if config.undecodable == "reject":
            return batch.reject(piece, record, "bytes outside the encoding", text[:SHOWN])
        text = normalise(text)
    if config.clean:
        text, cleaned = clean(text, config.clean)
        batch.counts.update({f"cleaned_{name}": count for name, count in cleaned.items()})
        text = normalise(text)
    if passages and (shared := passages.shared(text)):
        if config.contaminated == "drop":
            return batch.reject(piece, record, "contaminated", text, doc_id=document_id(text))
        for start, end in shared:
            batch.reject(piece, record, "contaminated passage", text[start:end])
        text = normalise(cut(text, shared))
    if not text:
        return batch.reject(piece, record, "empty", "")
    encoded = text.encode()
    batch.text.append(encoded)
    batch.source.append(source.label)
    batch.location.append(f"{piece.file.name} {record.location}")
    batch.metadata.append(_metadata(record.fields, source.kept) if source.kept else "{}")
    batch.size += ROW_BYTES + len(encoded)
    return None


def _metadata(fields: dict[str, Any], names: Sequence[str]) -> str:
    kept = {name: fields[name] for name in names if name in fields}
    try:
        return orjson.dumps(kept, default=str).decode()
    except TypeError:  # integers of more than 64 bits, or bytes outside the encoding
        return SURROGATE.sub("\ufffd", json.dumps(kept, default=str, ensure_ascii=False, separators=(",", ":")))


@lru_cache(maxsize=1)
def _passages(pieces: tuple[Piece, ...], n: int) -> Passages:
    return Passages((text for _, of in groupby(pieces, lambda piece: piece.source) for text in _held_out(of)), n)


def _held_out(pieces: Iterable[Piece]) -> Iterator[str]:
    """The texts of an evaluation set.

    Raises:
        InputError: there are none, and so nothing would be found.
    """
    n_texts, problem = 0, ""
    for piece in pieces:
        source = piece.source
        for record in (_usable(record, source) for record in one_by_one(_texts(piece))):
            if isinstance(record, Record):
                n_texts += 1
                yield record.fields[source.text]
            elif not problem:
                problem = f"; the first problem: {piece.file.name} {record.location}: {record.reason}"
    if not n_texts:
        raise InputError(f"The evaluation set {source.label!r} ({source.uri}) has no usable text{problem}.")


@lru_cache(maxsize=1)
def _bad_words(files: tuple[File, ...]) -> frozenset[str]:
    words: frozenset[str] = frozenset()
    for file in files:
        with file.open() as stream:
            words |= bad_words_of(stream.read().decode("utf-8-sig", "replace").splitlines())
    return words


def language_of(text: str) -> str:
    """The language of a text by its first thousand characters, in two letters of ISO 639-1 (py3langid)."""
    import py3langid  # takes its time and memory, so only where it is asked for

    return str(py3langid.classify(text[:1000])[0])


def _texts(piece: Piece) -> Iterator[Record | Records | Bad]:
    """The records of a piece; grouped ones joined."""
    source = piece.source
    if not source.group_by:
        yield from _records(piece)
        return

    def key(record: Record | Bad) -> Any:
        if isinstance(record, Bad):
            return None
        return json.dumps([record.fields[name] for name in source.group_by], default=str)

    for group, members in groupby((_usable(record, source) for record in one_by_one(_records(piece))), key):
        if group is None:
            yield from members
            continue
        first, *others = cast("list[Record]", list(members))
        text = source.separator.join(member.fields[source.text] for member in (first, *others))
        location = f"{first.location} to {others[-1].location.rpartition(' ')[2]}" if others else first.location
        yield Record(first.fields | {source.text: text}, location)


def _usable(record: Record | Bad, source: SourceConfig) -> Record | Bad:
    """The record, if it has the text and the columns to group by."""
    if isinstance(record, Bad):
        return record
    fields, location = record
    text = fields.get(source.text)
    if isinstance(text, str):
        missing = [name for name in source.group_by if name not in fields] if source.group_by else None
        return Bad(f"no column {missing[0]!r} to group by", location, text) if missing else record
    if source.text not in fields:
        return Bad(no_column(source.text, fields), location, str(fields)[:SHOWN])
    return Bad(f"column {source.text!r} holds {type(text).__name__}, not text", location, str(fields)[:SHOWN])


def _records(piece: Piece) -> Iterator[Record | Records | Bad]:
    with piece.file.open() as file:
        stream = file if piece.end is None else cast(BinaryIO, _Range(file, piece.start, piece.end))
        yield from read_records(stream, piece.file.name, piece.source, piece.lines_before + 1)
    piece.file.check_unchanged()


class _Range(io.RawIOBase):
    """The bytes of a file from one position to another."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file, self._left = file, end - start
        file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(min(len(buffer), self._left))
        self._left -= len(block)
        buffer[: len(block)] = block
        return len(block)


def check_usable(config: IngestConfig, parts: list[Part], skipped: list[tuple[str, Skipped]]) -> None:
    usable = sum((part.usable for part in parts), Counter())
    for source in config.sources:
        if not usable[source.label]:
            rejected = (row for part in parts for row in read_rows(part.rejected, ["source", "location", "reason"]))
            problems = chain(
                (f"{row['location']}: {row['reason']}" for row in rejected if row["source"] == source.label),
                (f"{file.name}: {file.reason}" for label, file in skipped if label == source.label),
            )
            why = f"; the first problem: {problem}" if (problem := next(problems, None)) else ""
            raise InputError(f"The source {source.label!r} ({source.uri}) has no usable document{why}.")


def sizes_of(documents: pa.RecordBatch) -> Counter[str]:
    """How many documents and bytes there are, of all and of each split."""
    sizes: Counter[str] = Counter()
    for split in SPLITS:
        n_bytes = documents["n_bytes"].filter(pc.equal(documents["split"], split))
        for suffix in ("", f"_{split}"):
            sizes["documents" + suffix] += len(n_bytes)
            sizes["bytes" + suffix] += pc.sum(n_bytes).as_py() or 0
    return sizes
