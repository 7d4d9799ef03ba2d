"""The plan of ingest: partitions of source files that are read independently of each other."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.corpus.folders import Skipped
from pipelines.corpus.ingest.config import VERSION, IngestConfig, SourceConfig
from pipelines.corpus.ingest.divide import Division
from pipelines.corpus.readers.formats import FORMATS, check_format, split_name
from pipelines.corpus.readers.json_lines import count_line_ends
from pipelines.corpus.readers.look import Look, look
from pipelines.corpus.readers.records import ReadOptions, UnreadableError, to_seekable
from pipelines.corpus.sources import File, Listing, describe, file_digest, report_hashed
from pipelines.store.step import StepContext, fingerprinted

PARTITIONS = "partitions.json"

# What a part of a partition became in a corpus, as `partitions.json` stores it: the `number` of its file in
# `documents`, and `first_rejected`, the row of `rejected.parquet` at which its rows begin. The records that the first
# pass rejected come first. Duplicates follow, which were the rows `dropped` of the first pass. `counts`,
# `usable`, `longest` and `problem` are those of the first pass.
Entry = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """A file of a source, or its lines between two positions, which follow `lines_before` others.

    look: how the file is read, once somebody has looked.
    """

    source: SourceConfig
    file: File
    start: int = 0
    end: int | None = None
    lines_before: int = 0
    sha256: str = ""
    look: Look | None = None

    @property
    def options(self) -> ReadOptions:
        """How the file is read, as far as that is known."""
        return self.look.options if self.look else self.source


@dataclass(frozen=True)
class Partition:
    """What one task reads, of sources with different names, and where it writes.

    known: the folder of an earlier corpus, and what the same partition became there.
    """

    config: IngestConfig
    pieces: tuple[Piece, ...]
    folder: Path
    key: str
    known: tuple[Path, list[Entry]] | None
    evaluation_sets: tuple[Piece, ...]
    word_lists: tuple[File, ...]
    division: Division | None = None


def known_partitions(work: StepContext) -> dict[str, tuple[Path, list[Entry]]]:
    """Return what an earlier version of the corpus made of its partitions, by their keys."""
    if not (previous := work.usable_previous(PARTITIONS)):
        return {}
    with work.refusing(previous):
        table: list[tuple[str, list[Entry]]] = json.loads(previous.file(PARTITIONS).read_text())
        for entry in (entry for _, entries in table for entry in entries):
            previous.file(f"documents/part-{entry['number']:05d}.parquet")  # no other file is taken from it
        return {key: (previous.path, entries) for key, entries in table}
    return {}


def plan(
    config: IngestConfig,
    listing: Listing,
    folder: Path,
    known: Mapping[str, tuple[Path, list[Entry]]] | None = None,
    later: Collection[str] = (),
    division: Division | None = None,
) -> tuple[list[Partition], list[tuple[SourceConfig, Skipped]]]:
    """Divide the source files into partitions, by nothing except the files' names, sizes and line ends.

    A partition ends after a file with a chance that is the file's share of a partition's size, drawn from its name. So
    a file that is added or removed moves the boundaries beside it, and no others.

    Args:
        later: files that appeared after the fingerprint was taken, which are left out.
        division: how long texts are divided, unless their source says it.

    Returns:
        the partitions, and the files that are skipped, each with its source.
    """
    skipped: list[tuple[SourceConfig, Skipped]] = []
    groups: list[list[Piece]] = [[]]
    titles: set[str] = set()
    size = 0  # bytes of the last group
    for source in config.sources:
        files, unread = listing[source]
        if source.title in titles:  # a partition counts the documents of each name
            groups.append([])
            titles.clear()
            size = 0
        titles.add(source.title)
        skipped += [(source, each) for each in unread if not each.is_own]
        for file in files:
            if f"{source.title}/{file.name}" in later:
                continue
            check_format(source)
            if not source.format and not split_name(file.name)[1] and isinstance(why := _look(source, file), str):
                skipped.append((source, Skipped(file.name, why)))
                continue
            if file.bytes > config.partition_bytes and (whole := _look_to_divide(source, file)):
                groups += [[piece] for piece in _by_lines(whole, config.partition_bytes)] + [[]]
                size = 0
                continue
            groups[-1].append(Piece(source, file, sha256=file_digest(file)))
            draw = int(hashlib.sha256(f"{source.title}/{file.name}".encode()).hexdigest()[:8], 16) / 16**8
            size += file.bytes
            if size >= 4 * config.partition_bytes or draw < file.bytes / config.partition_bytes:
                groups.append([])
                size = 0
    evaluation_sets = tuple(Piece(source, file) for source in config.decontaminate for file in listing[source][0])
    word_lists = tuple(file for source in config.word_lists for file in listing[source][0])
    common = fingerprinted(config)
    del common["sources"]
    common["decontaminate"] = [describe(listing[source][0], source.title) for source in config.decontaminate]
    common["bad_words"] = describe(word_lists, "bad-words") if word_lists else None
    partitions = []
    for number, pieces in enumerate(filter(None, groups)):
        key, place = _key(common, pieces, division), folder / f"read-{number:05d}"
        before = known.get(key) if known else None
        partitions.append(Partition(config, tuple(pieces), place, key, before, evaluation_sets, word_lists, division))
    return partitions, skipped


def _key(common: dict[str, Any], pieces: Sequence[Piece], division: Division | None) -> str:
    """Return a name of what a partition becomes: equal keys, equal documents."""
    made_of = [
        [fingerprinted(piece.options), piece.source.title, piece.file.name, piece.lines_before, piece.sha256]
        for piece in pieces
    ]
    text = json.dumps([VERSION, common, made_of, division and astuple(division)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _look(source: SourceConfig, file: File) -> Look | str:
    """Return how a file is to be read, or why it cannot be."""
    with to_seekable(file.open()) as stream:
        try:
            return look(stream, file.name, source)
        except UnreadableError as error:
            return str(error)


def _look_to_divide(source: SourceConfig, file: File) -> Piece | None:
    """Return a large file as one piece, if each of its lines can be read alone."""
    if source.group_by or "://" in file.uri or isinstance(found := _look(source, file), str):
        return None
    options = found.options
    is_by_line = FORMATS[options.format or ""].by_line and options.compression == "none"
    return Piece(source, file, look=found) if is_by_line and options.encoding in ("utf-8", "ascii") else None


def _by_lines(whole: Piece, size: int) -> Iterator[Piece]:
    file, bounds = whole.file, [0]
    with file.open() as stream:
        while bounds[-1] < file.bytes:
            bounds.append(_line_end(stream, min(bounds[-1] + size, file.bytes)))
            if bounds[-1] <= bounds[-2]:  # the file is shorter than it was
                file.check_unchanged()
    lines = 0
    with ThreadPoolExecutor(2) as pool:  # hashing, counting and reading all release the interpreter
        scanned = pool.map(lambda span: _scan(file, *span), pairwise(bounds))
        for (start, end), (sha256, count) in zip(pairwise(bounds), scanned, strict=True):
            yield replace(whole, start=start, end=end, lines_before=lines, sha256=sha256)
            lines += count


def _line_end(stream: BinaryIO, at: int) -> int:
    """Return the first position, from one on, that follows the end of a line."""
    stream.seek(at - 1)
    while (block := stream.readline(1 << 20)) and not block.endswith(b"\n"):
        pass
    return stream.tell()


def _scan(file: File, start: int, end: int) -> tuple[str, int]:
    """Return the SHA-256 of a part of a file, and the number of lines that end in it."""
    digest, lines = hashlib.sha256(), 0
    with file.open() as stream:
        stream.seek(start)
        while block := stream.read(min(1 << 18, end - stream.tell())):
            digest.update(block)
            lines += count_line_ends(block)
            report_hashed(len(block))
    return digest.hexdigest(), lines
