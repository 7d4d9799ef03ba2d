"""Ingest: source files become a corpus of clean documents, each once, and a table of what was rejected and why.

Two passes, both over partitions of the source files. The first reads, normalises and hashes; between the two one
query finds the duplicates; the second writes what stays. Nothing is held in memory that grows with the corpus.

When the sources grew, partitions that the last version had too are taken from it instead of being read again, and
their files are shared with it. The result is what reading everything again would give, byte for byte.

Output: `documents/part-*.parquet` and `rejected.parquet`, with the columns of `documents.DOCUMENTS` and `REJECTED`,
and `partitions.json`, which says what each partition became.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain, groupby, islice, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Self, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BeforeValidator, Field, model_validator

from gpt.config import Config
from pipelines.cleaning import CleanerName, clean
from pipelines.contamination import Passages, cut
from pipelines.documents import (
    DOCUMENTS,
    REJECTED,
    SPLITS,
    SplitConfig,
    document_id,
    name_texts,
    normalise,
    normalise_all,
    split_of,
    text_array,
)
from pipelines.duplicates import find_duplicates, parts_with_duplicates, rows_to_drop, write_signatures
from pipelines.errors import InputError
from pipelines.quality import bad_words_of, judged, rules_of
from pipelines.readers import (
    SURROGATE,
    Bad,
    Format,
    ReadOptions,
    Record,
    Records,
    UnreadableError,
    count_line_ends,
    detect_encoding,
    formats_of,
    no_column,
    one_by_one,
    read_records,
)
from pipelines.sources import File, Skipped, Uri, describe, file_digest, label_of, list_files
from pipelines.store.dataset import Dataset
from pipelines.store.files import link_or_copy, write_json
from pipelines.store.manifest import SourceFile
from pipelines.store.partitions import mark_done, read_done
from pipelines.store.step import StepContext, StepType, fingerprinted
from pipelines.tables import ROW_BYTES, TableWriter, read_batches, read_rows, read_some_rows

PARTITIONS = "partitions.json"
BATCH_BYTES = 2 << 20  # of text that is handled at once
SHOWN = 2_000  # characters of an unreadable record that are kept to look at


class SourceConfig(ReadOptions):
    """Files of one kind, and which of their columns to take."""

    uri: Uri = Field(
        description="A file, folder, glob, package://NAME/path or address.", json_schema_extra={"fingerprint": False}
    )
    name: str | None = Field(default=None, description="What to call the source; by default the last part of its URI.")
    text: str = Field(default="text", description="The column that holds the text.")
    group_by: tuple[str, ...] = Field(
        default=(), description="Consecutive records equal in these columns make one document."
    )
    separator: str = Field(default="\n", description="What joins the texts of a group.")
    metadata: tuple[str, ...] = Field(default=(), description="Columns to keep beside the text.")

    @cached_property
    def label(self) -> str:
        return self.name or label_of(self.uri)

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """The columns that become a document's metadata."""
        return (*self.group_by, *self.metadata)

    @property
    def wanted(self) -> tuple[str, ...]:
        return (self.text, *self.kept)


class IngestConfig(Config):
    """From source files to a corpus."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1, description="Where the text comes from, in order.")
    split: SplitConfig = Field(default=SplitConfig(), description="How much is held out.")
    undecodable: Literal["reject", "repair"] = Field(
        default="reject",
        description="What to do with a text that has bytes outside its encoding: reject it, or mark them.",
    )
    clean: tuple[CleanerName, ...] = Field(default=(), description="What to do to the texts, in this order.")
    language: bool = Field(default=False, description="Whether to tell the language of each document.")
    keep: Annotated[tuple[str, ...], BeforeValidator(lambda keep: (keep,) if isinstance(keep, str) else keep)] = Field(
        default=(), description="Rules that a document has to meet: SQL over its statistics, or the presets gopher, c4."
    )
    bad_words: Uri | None = Field(
        default=None,
        description="A file of words and phrases, one a line, that the statistic bad_words counts in a document.",
        json_schema_extra={"fingerprint": False},
    )
    near_duplicates: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Similarity from which documents are near duplicates; by default, none are.",
    )
    decontaminate: tuple[SourceConfig, ...] = Field(
        default=(), description="Evaluation sets, whose passages must not be in the corpus."
    )
    passage_words: int = Field(default=13, gt=0, description="Equal words in a row that make a shared passage.")
    contaminated: Literal["drop", "cut"] = Field(
        default="drop", description="Whether to drop documents with such a passage, or cut the passage out."
    )
    partition_bytes: int = Field(
        default=64 << 20, ge=1, description="Size of source files, and of text, that one task handles."
    )

    @model_validator(mode="after")
    def _languages_are_told(self) -> Self:
        asks = (rule for rule in self.keep if re.search(r"\blanguage\b", re.sub("'[^']*'", "", rule)))
        if not self.language and (rule := next(asks, None)):
            raise ValueError(f"the rule {rule!r} asks for the language, so language has to be true")
        return self


def run(inputs: Mapping[str, Dataset], config: IngestConfig, out: Path, work: StepContext) -> dict[str, Any]:
    rules_of(config.keep, config.bad_words is not None)
    later = work.files_that_came_later(lambda: sources(config))
    partitions, skipped = plan(config, work.scratch, _known(work), later)
    work.report.progress(0, len(partitions), "partitions", "reading")
    parts_of = work.map(read_partition, partitions)
    parts = [part for parts in parts_of for part in parts]
    _check_usable(config, parts, skipped)
    work.report.progress(len(partitions), len(partitions), "partitions", "looking for duplicates")
    duplicates = find_duplicates([part.documents for part in parts], work.scratch, config.near_duplicates)
    (out / "documents").mkdir()
    targets = [out / "documents" / f"part-{number:05d}.parquet" for number in range(len(parts))]
    written = _write_documents(work, parts, targets, duplicates)
    rejected, entries = _write_rejected(out / "rejected.parquet", parts, written, skipped)
    entry = iter(entries)
    table = [
        [partition.key, [next(entry) for _ in parts]] for partition, parts in zip(partitions, parts_of, strict=True)
    ]
    write_json(out / PARTITIONS, [[key, [entry.__dict__ for entry in entries]] for key, entries in table])
    total = sum((part.counts for part in written), Counter())
    if not total["documents"]:
        raise InputError(
            "Every document was rejected; the first: " + next(part.problem for part in parts if part.problem)
        )
    names = ("documents", "bytes", *(f"{what}_{split}" for split in SPLITS for what in ("documents", "bytes")))
    return {
        **{name: total[name] for name in names},
        "rejected": sum(rejected.values()),
        **_by_reason(rejected.most_common(12)),
        "undecodable_bytes": sum(part.counts["undecodable"] for part in parts),
        **{f"cleaned_{name}": sum(part.counts[f"cleaned_{name}"] for part in parts) for name in config.clean},
        "parts": len(parts),
        "parts_shared": sum(part.previous is not None for part in parts),
    }


MODULES = (
    "cleaning",
    "contamination",
    "documents",
    "duplicates",
    "ingest",
    "quality",
    "readers",
    "sources",
    "tables",
)


def sources(config: IngestConfig) -> tuple[SourceFile, ...]:
    """Name, size and digest of every file that the config names, in the order in which they are read."""
    lists = [(source.uri, source.label) for source in (*config.sources, *config.decontaminate)]
    lists += [(config.bad_words, "bad-words")] if config.bad_words else []
    return tuple(entry for uri, label in lists for entry in describe(list_files(uri)[0], label))


INGEST = StepType(
    "ingest",
    kind="corpus",
    version=5,
    config=IngestConfig,
    run=run,
    sources=sources,
    modules=tuple(f"pipelines.{name}" for name in MODULES),
)


# Planning


@dataclass(frozen=True)
class Piece:
    """A file of a source, or some of its lines: those from one position to another, after so many others."""

    source: SourceConfig
    file: File
    start: int = 0
    end: int | None = None
    lines_before: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class Entry:
    """What a part became in a corpus: its number, and where its rows of `rejected` lie.

    first_rejected: the row of `rejected.parquet` from which on there are the part's: first the `rejected` ones that
        were so at once, then the documents that were dropped as duplicates, which were its rows `dropped`.
    """

    number: int
    first_rejected: int
    rejected: int
    dropped: tuple[int, ...]
    counts: dict[str, int]
    usable: dict[str, int]
    problem: str


@dataclass(frozen=True)
class Partition:
    """What one task reads, and where it writes; `known` is what an earlier corpus (a folder) made of the same."""

    config: IngestConfig
    pieces: tuple[Piece, ...]
    folder: Path
    key: str
    known: tuple[Path, tuple[Entry, ...]] | None = None


Known = dict[str, tuple[Path, tuple[Entry, ...]]]


def _known(work: StepContext) -> Known:
    """What an earlier version of the corpus made of its partitions, by their keys."""
    if not (previous := work.usable_previous(PARTITIONS)):
        return {}
    table = json.loads(previous.file(PARTITIONS).read_text())
    return {
        key: (previous.path, tuple(Entry(**each | {"dropped": tuple(each["dropped"])}) for each in entries))
        for key, entries in table
    }


def plan(
    config: IngestConfig,
    folder: Path,
    known: Known | None = None,
    later: Collection[str] = (),
) -> tuple[list[Partition], list[tuple[str, Skipped]]]:
    """Divide the source files into partitions, which depend on nothing but the files' names, sizes and line ends.

    A new partition begins behind a file with a chance of its size in partitions, drawn from its name: so a file
    that is added or removed moves the boundaries beside it, and no others. Files that came `later` are left out.
    """
    skipped: list[tuple[str, Skipped]] = []
    groups: list[list[Piece]] = [[]]
    for source in config.sources:
        files, unread = list_files(source.uri)
        skipped += [(source.label, each) for each in unread]
        for file in files:
            if f"{source.label}/{file.name}" in later:
                continue
            try:
                compression, format_ = formats_of(file.name, source)
            except KeyError as unknown:
                skipped.append((source.label, Skipped(file.name, f"no reader for .{unknown.args[0]}")))
                continue
            if file.bytes > config.partition_bytes and not compression and _can_be_divided(source, file, format_):
                groups += [[piece] for piece in _by_lines(source, file, config.partition_bytes)] + [[]]
                continue
            groups[-1].append(Piece(source, file, sha256=file_digest(file)))
            draw = int(hashlib.sha256(f"{source.label}/{file.name}".encode()).hexdigest()[:8], 16) / 16**8
            full = sum(piece.file.bytes for piece in groups[-1]) >= 4 * config.partition_bytes
            if full or draw < file.bytes / config.partition_bytes:
                groups.append([])
    common = fingerprinted(config)
    del common["sources"]
    common["decontaminate"] = [describe(list_files(each.uri)[0], each.label) for each in config.decontaminate]
    common["bad_words"] = describe(list_files(config.bad_words)[0], "bad-words") if config.bad_words else None
    partitions = []
    for i, pieces in enumerate(filter(None, groups)):
        key = _key(common, pieces)
        partitions.append(Partition(config, tuple(pieces), folder / f"read-{i:05d}", key, (known or {}).get(key)))
    return partitions, skipped


def _key(common: dict[str, Any], pieces: list[Piece]) -> str:
    """Names what a partition's files become: equal keys, equal documents."""
    made_of = [
        [fingerprinted(piece.source), piece.source.label, piece.file.name, piece.lines_before, piece.sha256]
        for piece in pieces
    ]
    text = json.dumps([INGEST.version, common, made_of], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _can_be_divided(source: SourceConfig, file: File, format_: Format) -> bool:
    if not format_.by_line or source.group_by or "://" in file.uri:
        return False
    with file.open() as stream:
        try:
            return detect_encoding(stream.read(1 << 16), source.encoding) in ("utf-8-sig", "ascii")
        except UnreadableError:
            return False


def _by_lines(source: SourceConfig, file: File, size: int) -> Iterator[Piece]:
    bounds = [0]
    with file.open() as stream:
        while bounds[-1] < file.bytes:
            bounds.append(_line_end(stream, min(bounds[-1] + size, file.bytes)))
            if bounds[-1] <= bounds[-2]:  # the file is shorter than it was
                file.check_unchanged()
    lines = 0
    with ThreadPoolExecutor(2) as pool:  # hashing, counting and reading all release the interpreter
        for (start, end), (sha256, count) in zip(
            pairwise(bounds), pool.map(lambda span: _scan(file, *span), pairwise(bounds)), strict=True
        ):
            yield Piece(source, file, start, end, lines, sha256)
            lines += count


def _line_end(stream: BinaryIO, at: int) -> int:
    """The first position from one on at which a line has just ended."""
    stream.seek(at - 1)
    while (block := stream.readline(1 << 20)) and not block.endswith(b"\n"):
        pass
    return stream.tell()


def _scan(file: File, start: int, end: int) -> tuple[str, int]:
    """SHA-256 of a part of a file, and how many lines end in it."""
    digest, lines = hashlib.sha256(), 0
    with file.open() as stream:
        stream.seek(start)
        while block := stream.read(min(1 << 18, end - stream.tell())):
            digest.update(block)
            lines += count_line_ends(block)
    return digest.hexdigest(), lines


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
                part.counts.update(_sizes(documents))
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


def _check_usable(config: IngestConfig, parts: list[Part], skipped: list[tuple[str, Skipped]]) -> None:
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


# The second pass: write what stays


@dataclass(frozen=True)
class Write:
    """A part to be written without the rows that were found to be duplicates."""

    part: Part
    number: int
    duplicates: Path
    target: Path


@dataclass(frozen=True)
class Written:
    """What a part holds in the end, and the file of its duplicates, if it has any."""

    counts: Counter[str]
    dropped: Path | None = None
    rows: tuple[int, ...] = ()


def _write_documents(work: StepContext, parts: list[Part], targets: list[Path], duplicates: Path) -> list[Written]:
    """Parts with duplicates are written anew, each by a task of its own; the others stay as they are."""
    numbers = sorted(parts_with_duplicates(duplicates))
    work.report.progress(0, len(numbers), "parts", "dropping duplicates")
    writes = [Write(parts[number], number, duplicates, targets[number]) for number in numbers]
    rewritten = dict(zip(numbers, work.map(write_part, writes), strict=True))
    for number, part in enumerate(parts):
        if number not in rewritten:
            link_or_copy(part.documents, targets[number])
    return [rewritten.get(number, Written(part.counts)) for number, part in enumerate(parts)]


def write_part(write: Write) -> Written:
    drop = rows_to_drop(write.duplicates, write.number)
    dropped = write.part.documents.with_name(f"dropped-{write.number:05d}.parquet")
    rows = tuple(sorted(drop))
    as_before = write.part.previous and rows == write.part.dropped_before
    kept = write.target.with_suffix(".unused") if as_before else write.target
    counts: Counter[str] = Counter()
    columns = pq.read_schema(write.part.documents)
    with TableWriter(kept, columns) as good, TableWriter(dropped, REJECTED) as bad:
        first = 0
        for batch in read_batches(write.part.documents):
            here = [row - first for row in rows if first <= row < first + len(batch)]
            for place, row in zip(here, batch.take(pa.array(here, pa.int64())).to_pylist(), strict=True):
                bad.write(row | drop[first + place])
            first += len(batch)
            mask = np.ones(len(batch), bool)
            mask[here] = False
            staying = batch.filter(pa.array(mask))
            counts.update(_sizes(staying))
            if not as_before:
                good.write_batch(staying)
    if as_before:
        kept.unlink()
        link_or_copy(cast(Path, write.part.previous), write.target)
    return Written(counts, dropped, rows)


def _sizes(documents: pa.RecordBatch) -> Counter[str]:
    """How many documents and bytes there are, of all and of each split."""
    sizes: Counter[str] = Counter()
    for split in SPLITS:
        n_bytes = documents["n_bytes"].filter(pc.equal(documents["split"], split))
        for suffix in ("", f"_{split}"):
            sizes["documents" + suffix] += len(n_bytes)
            sizes["bytes" + suffix] += pc.sum(n_bytes).as_py() or 0
    return sizes


def _write_rejected(
    target: Path, parts: list[Part], written: list[Written], skipped: list[tuple[str, Skipped]]
) -> tuple[Counter[str], list[Entry]]:
    """One table of all that was rejected, in the order of the sources; returns how many for each reason, and where."""
    reasons: Counter[str] = Counter()
    entries: list[Entry] = []
    with TableWriter(target, REJECTED) as table:
        for label, file in skipped:
            table.write({"source": label, "location": file.name, "reason": file.reason})
            reasons[file.reason] += 1
        for number, (part, after) in enumerate(zip(parts, written, strict=True)):
            first = table.rows
            for path in filter(None, (part.rejected, after.dropped)):
                for row in read_rows(path):
                    table.write(row)
                    reasons[row["reason"]] += 1
            rejected = table.rows - first - len(after.rows)
            counts, usable = dict(part.counts), dict(part.usable)
            entries.append(Entry(number, first, rejected, after.rows, counts, usable, part.problem))
    return reasons, entries


def _by_reason(rejected: Iterable[tuple[str, int]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for reason, count in rejected:
        words = reason.lower()
        for sign, word in ((">=", "at least"), ("<=", "at most"), (">", "above"), ("<", "below")):
            words = words.replace(sign, f" {word} ")
        counts["rejected_" + re.sub(r"\W+", "_", words).strip("_")[:48]] += count
    return counts
