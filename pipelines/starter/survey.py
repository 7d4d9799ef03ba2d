"""A survey of somebody's text: the files by kind, how each kind is read, and what it holds.

A survey opens a bounded number of files and reads the beginning of each, through the same readers as a run. Numbers of
records, bytes and tokens are estimates from that sample, unless all was read.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pipelines.addresses import has_secret
from pipelines.corpus.ingest.texts import spoken_text
from pipelines.corpus.places import label_of
from pipelines.corpus.readers.compression import decompress
from pipelines.corpus.readers.encoding import open_text
from pipelines.corpus.readers.formats import one_by_one, read_records, split_name
from pipelines.corpus.readers.look import Guess, look
from pipelines.corpus.readers.records import SURROGATE, Bad, ReadOptions, UnreadableError
from pipelines.corpus.sources import REFUSED, File, FileSource, Skipped, list_files
from pipelines.errors import InputError
from pipelines.starter.addresses import absolute, addresses, extension, folder_of
from pipelines.starter.columns import Columns, columns_of, fields_of, names_of, without_header

SECONDS = 20.0  # for a whole survey
FILES = 24  # of an extension that are opened
RECORDS, CHARACTERS = 400, 1 << 18  # of a file
PIECE = 1 << 16  # characters of a long text that are read at a time
TOKEN_BYTES = 4.0  # of most languages
LANGUAGES = 40  # texts of a kind whose language is guessed
PACKED = 3.0  # bytes in a byte of a compressed file
# Bytes of values in a byte of a file.
UNPACKED = {"parquet": 2.0, "arrow": 1.0, "json": 0.8, "html": 0.2, "pdf": 0.1, "warc": 0.5, "conversations": 0.9}
DELIMITED = ("csv", "tsv")
TABLES = (*DELIMITED, "json", "jsonl", "parquet", "arrow", "conversations")  # whose columns have any names
WHOLE = ("text", "markdown", "code", "html", "pdf")  # a file is a document


@dataclass(frozen=True)
class Kind:
    """Files of one extension that are read in the same way.

    uris: name these files.
    encodings: how many of the files that were opened have which encoding.
    guessed, doubtful: what of the reading was guessed, and what of that is doubtful.
    names: the names of the columns, if the files have none.
    fields: the names of the columns of the sample.
    records, text_bytes: estimates.
    texts: those of the sample.
    lengths: characters of each record of the sample.
    problem: why nothing can be read, if that is so.
    """

    extension: str
    files: tuple[File, ...]
    format: str = ""
    uris: tuple[str, ...] = ()
    encodings: tuple[tuple[str, int], ...] = ()
    guessed: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    columns: Columns | None = None
    names: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    records: int = 0
    text_bytes: int = 0
    texts: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    languages: tuple[tuple[str, int], ...] = ()
    problem: str = ""

    @property
    def bytes(self) -> int:
        """The size of the files."""
        return sum(file.bytes for file in self.files)

    @property
    def tokens(self) -> float:
        """The estimated tokens of a usual vocabulary."""
        return self.text_bytes / TOKEN_BYTES

    @property
    def is_table(self) -> bool:
        """Whether the records have columns, of which one has to be chosen."""
        return self.columns != Columns(text="text") or bool(self.names)


@dataclass(frozen=True)
class Survey:
    """What somebody's text is: the kinds that can be read, and what cannot.

    files: how many files the URI names.
    """

    uri: str
    files: int
    kinds: tuple[Kind, ...]
    unread: tuple[Kind, ...]
    skipped: tuple[Skipped, ...]

    @property
    def text_bytes(self) -> int:
        """The estimated size of all text."""
        return sum(kind.text_bytes for kind in self.kinds)


def name_of(uri: str) -> str:
    """Return a name for a URI: its last part that is no pattern, without an extension of a file."""
    name = label_of(uri)
    folder = folder_of(uri)
    return name if folder else name.removesuffix(f".{extension(name)}")


def survey(uri: str) -> Survey:
    """Look at the text that a URI names.

    Raises:
        InputError: the URI names no file, or nothing of it can be read.
        ConnectionError: it is remote and cannot be reached.
    """
    if has_secret(uri):
        raise InputError(f"The address {REFUSED}.")
    uri = absolute(uri)
    try:
        files, skipped = list_files(uri)
    except InputError as error:  # which speaks of a config
        raise InputError(str(error).replace(" in the config", "")) from None
    by_extension: dict[str, list[File]] = {}
    for file in files:
        by_extension.setdefault(extension(file.name), []).append(file)
    deadline = time.monotonic() + SECONDS
    kinds = [kind for ending, some in by_extension.items() for kind in _kinds(ending, some, deadline)]
    kinds = [replace(kind, uris=tuple(addresses(kind.files, files, uri))) for kind in kinds]
    good = sorted((kind for kind in kinds if not kind.problem), key=lambda kind: -kind.text_bytes)
    unread = [kind for kind in kinds if kind.problem]
    if not good:
        worst = max(unread, key=lambda kind: kind.bytes)
        raise InputError(
            f"{uri} has no text that can be read; the first problem: {worst.files[0].name}: {worst.problem}."
        )
    return Survey(uri, len(files), tuple(good), tuple(unread), tuple(skipped))


@dataclass(frozen=True)
class _Sample:
    """The beginning of a file, and how much of the file it is."""

    file: File
    options: ReadOptions
    records: Sequence[dict[str, Any]]
    share: float
    problem: str
    guesses: tuple[Guess, ...] = ()


def first_records(uri: str, format: str | None = None) -> tuple[ReadOptions, Sequence[dict[str, Any]]]:
    """Return how a file is read, with guessed names of columns, and its first records; none of a file without a reader.

    Raises:
        InputError: there is no such file, or it cannot be read as what its name says.
    """
    (file, *_), _ = list_files(absolute(uri))
    sample = _sample(file, time.monotonic() + SECONDS, format)
    if not sample.records and split_name(file.name)[1] in TABLES:
        raise InputError(f"{uri} cannot be read: {sample.problem}.")
    return sample.options, sample.records


def _kinds(ending: str, files: Sequence[File], deadline: float) -> Iterator[Kind]:
    """Yield the kinds of the files of an extension: one, unless their columns differ."""
    step = max(1, len(files) // FILES)
    samples = [_sample(file, deadline) for file in islice(files[::step], FILES)]
    found: dict[tuple[str, ...], list[_Sample]] = {}
    problems = [sample for sample in samples if not sample.records]
    for sample in samples:
        if sample.records:
            found.setdefault(_signature(sample), []).append(sample)
    if not found:
        yield Kind(ending, tuple(files), problem=problems[0].problem)
        return
    if len(found) > 1 and step > 1:  # files that nobody opened are taken for those of the most
        found = dict([max(found.items(), key=lambda item: len(item[1]))])
    for some in found.values():
        of = files if len(found) == 1 else [sample.file for sample in some]
        yield _kind(ending, [file for file in of if file not in [bad.file for bad in problems]], some)
    if problems and step == 1:
        yield Kind(ending, tuple(bad.file for bad in problems), problem=problems[0].problem)


def _signature(sample: _Sample) -> tuple[str, ...]:
    """Return what has to be equal for files to be one kind."""
    if sample.options.columns:
        return (sample.options.format or "", "", *sample.options.columns)
    return (sample.options.format or "", *sorted({name for record in sample.records for name in record}))


def _sample(file: File, deadline: float, format: str | None = None) -> _Sample:
    """Read the beginning of a file. A table without a header gets names for its columns."""
    options: ReadOptions = FileSource(uri=file.uri, max_document=PIECE, format=format)
    try:
        with file.open() as stream:
            seen = look(stream, file.name, options)
        sample = _read(file, seen.options, deadline)
        sample = _named(sample, deadline) if seen.options.format in DELIMITED else sample
    except (UnreadableError, InputError) as error:
        return _Sample(file, options, [], 0, str(error).rstrip("."))
    return replace(sample, guesses=seen.guesses)


def _read(file: File, options: ReadOptions, deadline: float) -> _Sample:
    """Read records until there are enough. An empty text is none."""
    records: list[dict[str, Any]] = []
    problem, size, share = "", 0, 0.0
    encoding = options.encoding or "utf-8"
    with file.open() as stream:
        for found in one_by_one(read_records(stream, file.name, options)):
            if isinstance(found, Bad):
                problem = problem or found.reason
                size += 1000
            elif found.fields.get("text") != "":
                records.append(found.fields)
                size += sum(len(str(value).encode(encoding, "replace")) for value in found.fields.values())
            if len(records) >= RECORDS or size >= CHARACTERS or time.monotonic() > deadline:
                unpacked = UNPACKED.get(str(options.format), 1.0) * (PACKED if options.compression != "none" else 1)
                share = min(size / unpacked / max(file.bytes, 1), 1.0)
                break
        else:
            share = 1.0
    return _Sample(file, options, records, share, problem or "no text in it")


def _named(sample: _Sample, deadline: float) -> _Sample:
    """Return the sample of a table; with names for its columns, if the first row is no header."""
    if sample.records and not without_header(list(sample.records[0]), sample.records):
        return sample
    numbers = tuple(f"column_{number}" for number in range(1, _width(sample.file, sample.options) + 1))
    numbered = _read(sample.file, sample.options.model_copy(update={"columns": numbers}), deadline)
    if len(numbered.records) < 2:
        return sample
    names = names_of(numbered.records)
    records = [dict(zip(names, record.values(), strict=False)) for record in numbered.records]
    return replace(numbered, records=records, options=numbered.options.model_copy(update={"columns": names}))


def _width(file: File, options: ReadOptions) -> int:
    """Return the number of fields in the first row of a table."""
    assert options.compression and options.delimiter  # of a look
    with file.open() as packed, decompress(packed, options.compression, options) as stream:
        line = open_text(stream, options).readline(CHARACTERS)
    return len(next(csv.reader([line], delimiter=options.delimiter), []))


def _kind(ending: str, files: Sequence[File], samples: Sequence[_Sample]) -> Kind:
    """Return the kind of files by some samples of them."""
    records = [record for sample in samples for record in sample.records]
    options = samples[0].options
    columns = columns_of(records[: 4 * RECORDS]) if options.format in TABLES else Columns(text="text")
    guesses = [guess for sample in samples for guess in sample.guesses]
    encodings = Counter(sample.options.encoding or "" for sample in samples)
    kind = Kind(
        ending,
        tuple(files),
        options.format or "",
        encodings=tuple((name, count) for name, count in encodings.most_common() if name),
        guessed=tuple(dict.fromkeys(guess.key for guess in guesses)),
        doubtful=tuple(dict.fromkeys(guess.key for guess in guesses if guess.is_doubtful)),
        columns=columns,
        names=options.columns,
        fields=fields_of(records),
    )
    if columns is None:
        return replace(kind, problem=f"no column of text among {', '.join(kind.fields)[:200]}")
    texts, lengths = [], []
    for record in records:
        found = [
            text for name in columns.read if isinstance(text := spoken_text(record.get(name)), str) and text.strip()
        ]
        texts += [SURROGATE.sub("\ufffd", text).strip() for text in found]
        lengths += [sum(map(len, found))] if found else []
    seen = sum(sample.share * sample.file.bytes for sample in samples)
    factor = max(kind.bytes / seen, 1.0) if seen else 1.0
    return replace(
        kind,
        records=len(files) if kind.format in WHOLE else round(len(lengths) * factor),
        text_bytes=round(sum(len(text.encode()) for text in texts) * factor),
        texts=tuple(texts),
        lengths=tuple(lengths),
        languages=() if kind.format == "code" else _languages(texts),
        problem="" if texts else "no text in it",
    )


def _languages(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Return the languages of some texts, the most frequent first, in letters of ISO 639-1."""
    import py3langid

    step = max(1, len(texts) // LANGUAGES)
    some = [text[:1000] for text in islice(texts[::step], LANGUAGES)]
    found = Counter(py3langid.classify(text)[0] for text in some)
    del found["zxx"]  # no language
    return tuple(found.most_common())
