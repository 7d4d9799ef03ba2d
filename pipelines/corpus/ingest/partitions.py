"""The plan of ingest: partitions of source files that are read independently."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.corpus.ingest.config import VERSION, IngestConfig, SourceConfig
from pipelines.corpus.readers.encoding import detect_encoding
from pipelines.corpus.readers.formats import formats_of
from pipelines.corpus.readers.json_lines import count_line_ends
from pipelines.corpus.readers.records import Format, UnreadableError
from pipelines.corpus.sources import File, Skipped, describe, file_digest, list_files
from pipelines.store.step import StepContext, fingerprinted

PARTITIONS = "partitions.json"


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


def known_partitions(work: StepContext) -> Known:
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
    text = json.dumps([VERSION, common, made_of], sort_keys=True, default=str)
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
