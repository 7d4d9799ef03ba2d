"""The documents of a partition, a few megabytes at a time: cleaned, decontaminated and tried by the rules."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.corpus.cleaning import clean
from pipelines.corpus.contamination import Passages, cut
from pipelines.corpus.documents import GUESSES, document_id, normalise
from pipelines.corpus.ingest.config import IngestConfig
from pipelines.corpus.ingest.divide import divide, longest_of
from pipelines.corpus.ingest.many import name_texts, normalise_fields, text_array
from pipelines.corpus.ingest.partitions import Partition, Piece
from pipelines.corpus.ingest.texts import DEEP, SHOWN, read_pieces, read_texts, usable
from pipelines.corpus.parquet import ROW_BYTES
from pipelines.corpus.quality import apply_rules, bad_words_of, rules_of
from pipelines.corpus.readers.formats import one_by_one
from pipelines.corpus.readers.look import Look
from pipelines.corpus.readers.records import MAX_WHOLE, SURROGATE, Bad, Record, Records, UnreadableError, read_whole
from pipelines.corpus.sources import File
from pipelines.errors import InputError

BATCH_BYTES = 2 << 20  # of text
WORDS_BYTES = 16 << 20  # of a list of bad words
BESIDE_BYTES = 64 << 20  # of metadata, which few texts have

Strings = list[str | pa.StringArray]


@dataclass
class Batch:
    """Documents in columns, since there may be many million small ones, and rows of what was rejected.

    A column of `Strings` holds single values beside arrays of the values of many documents.

    size: bytes of the texts, by which a corpus is divided.
    beside: bytes of the metadata.
    doubtful: the first file of each doubtful guess, by key and value.
    """

    text: list[bytes] = field(default_factory=list)
    source: Strings = field(default_factory=list)
    location: Strings = field(default_factory=list)
    metadata: Strings = field(default_factory=list)
    looks: list[tuple[Look, int]] = field(default_factory=list)  # how so many documents in a row were read
    rejected: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    doubtful: dict[str, str] = field(default_factory=dict)
    size: int = 0
    beside: int = 0

    def is_full(self, limit: int) -> bool:
        """Return whether the batch has enough text, or far more metadata than text."""
        return self.size >= limit or self.beside >= BESIDE_BYTES

    def begin(self, piece: Piece) -> None:
        """Count what is guessed of a file that begins."""
        for guess in piece.look.guesses if piece.look and piece.start == 0 else ():
            name = f"{guess.key}_{guess.value}"
            self.counts[f"guessed_{name}"] += 1
            if guess.is_doubtful:
                self.counts[f"doubtful_{name}"] += 1
                self.doubtful.setdefault(name, piece.file.name)

    def add_many(self, records: Records, piece: Piece, limit: int, longest: float) -> int:
        """Add the texts of records until the batch is full. Return how many; none if one needs a closer look."""
        source, records = piece.source, records[: 1 + (limit - self.size) // ROW_BYTES]
        if not (texts := normalise_fields(records.fields, source.text)):
            return 0
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        if sizes.max() > longest:
            return 0
        ends = self.size + np.cumsum(sizes + ROW_BYTES)
        n = min(int(np.searchsorted(ends, limit)) + 1, len(texts))  # the last text is the one that fills the batch
        try:
            metadata = [_metadata(fields, source.kept) for fields in records.fields[:n]] if source.kept else []
        except RecursionError:
            return 0
        self.text += texts[:n]
        self.source.append(pa.repeat(source.title, n))
        self.location.append(records[:n].locations(f"{piece.file.name} "))
        self.metadata += metadata if source.kept else [pa.repeat("{}", n)]
        self._add_look(piece, n)
        self.beside += sum(map(len, metadata))
        self.size = int(ends[n - 1])
        return n

    def add(self, record: Record | Bad, piece: Piece, config: IngestConfig, passages: Passages | None) -> None:
        """Add the document of a record, cleaned, and the rows of what was rejected of it."""
        source = piece.source
        if isinstance(record := usable(record, source), Bad):
            self.counts.update({"lost_rows": record.lost_rows, "lost_bytes": record.lost_bytes})
            return self.reject(record, piece, record.sentence, SURROGATE.sub("\ufffd", record.text)[:SHOWN])
        text = record.fields[source.text]
        try:
            text = normalise(text)
        except UnicodeEncodeError:
            text, undecodable = SURROGATE.subn("\ufffd", text)
            self.counts["undecodable"] += undecodable
            if config.undecodable == "reject":
                return self.reject(record, piece, "bytes outside the encoding", text[:SHOWN])
            text = normalise(text)
        if config.clean:
            text, cleaned = clean(text, config.clean)
            self.counts.update({f"cleaned_{name}": count for name, count in cleaned.items()})
            text = normalise(text)
        if passages and (shared := passages.shared(text)):
            if config.contaminated == "drop":
                return self.reject(record, piece, "contaminated", text, doc_id=document_id(text))
            for start, end in shared:
                self.reject(record, piece, "contaminated passage", text[start:end])
            text = normalise(cut(text, shared))
        if not text:
            return self.reject(record, piece, "empty", "")
        try:
            metadata = _metadata(record.fields, source.kept) if source.kept else "{}"
        except RecursionError:
            return self.reject(record, piece, f"the metadata are {DEEP}", text[:SHOWN])
        self.text.append(text.encode())
        self.source.append(source.title)
        self.location.append(f"{piece.file.name} {record.location}")
        self.metadata.append(metadata)
        self._add_look(piece, 1)
        self.beside += len(metadata)
        self.size += ROW_BYTES + len(self.text[-1])
        return None

    def reject(self, record: Record | Bad, piece: Piece, reason: str, text: str, **more: Any) -> None:
        """Add a row of `rejected`."""
        location = f"{piece.file.name} {record.location}"
        row = {"source": piece.source.title, "location": location, "reason": reason, "text": text}
        self.rejected.append(row | (piece.look.columns if piece.look else {}) | more)
        self.size += ROW_BYTES + len(text)

    def _add_look(self, piece: Piece, n: int) -> None:
        look = piece.look
        assert look
        if self.looks and self.looks[-1][0] is look:
            n += self.looks.pop()[1]
        self.looks.append((look, n))

    def documents(self, config: IngestConfig) -> pa.RecordBatch:
        """Return the rows of `documents`, without their statistics."""
        doc_ids, splits = name_texts(self.text, config.split)
        texts = text_array(self.text)
        languages = pa.nulls(len(texts), pa.string())
        if config.language:
            import py3langid  # takes time and memory, so only where a config asks for languages

            starts = (text.decode()[:1000] for text in self.text)
            languages = pa.array([py3langid.classify(start)[0] for start in starts], pa.string())  # ISO 639-1
        columns = {
            "doc_id": doc_ids,
            "source": _joined(self.source),
            "location": _joined(self.location),
            "split": splits,
            "text": texts,
            "n_bytes": pc.binary_length(texts).cast(pa.int64()),
            "language": languages,
            "metadata": _joined(self.metadata),
        }
        for guess in GUESSES:
            runs = [pa.repeat(pa.scalar(look.columns[guess.name], pa.string()), n) for look, n in self.looks]
            columns[guess.name] = pa.concat_arrays(runs or [pa.array([], pa.string())])
        return pa.RecordBatch.from_pydict(columns)


def read_batches(partition: Partition) -> Iterator[tuple[pa.RecordBatch, Batch]]:
    """Yield documents that meet the rules, and the batch with what was rejected and counted."""
    config = partition.config
    rules, bad_words = rules_of(config.keep), _bad_words(partition.word_lists)
    passages = _passages(partition.evaluation_sets, config.passage_words) if partition.evaluation_sets else None
    limit = min(BATCH_BYTES, config.partition_bytes)
    for batch in _fill_batches(partition, passages, limit):
        documents, broken = apply_rules(batch.documents(config), rules, bad_words)
        if broken.null_count < len(documents):
            reasons = broken.drop_null().to_pylist()
            for row, rule in zip(documents.filter(broken.is_valid()).to_pylist(), reasons, strict=True):
                batch.rejected.append(row | {"reason": f"quality: {rule}"})
            documents = documents.filter(broken.is_null())
        yield documents, batch


def _fill_batches(partition: Partition, passages: Passages | None, limit: int) -> Iterator[Batch]:
    config, batch = partition.config, Batch()
    at_once = not config.clean and not passages
    for piece, records_of in read_pieces(partition.pieces):
        batch.begin(piece)
        longest = min(longest_of(piece.source, partition.division), MAX_WHOLE)
        for found in records_of:
            left: Records | list[Record | Bad] = found if isinstance(found, Records) else [found]
            while left:
                if at_once and isinstance(left, Records) and (n := batch.add_many(left, piece, limit, longest)):
                    left = left[n:]
                else:
                    records = (each for record in left for each in divide(record, piece.source, partition.division))
                    for record in records:
                        batch.add(record, piece, config, passages)
                        if batch.is_full(limit):
                            break
                    left = list(records)
                if batch.is_full(limit):
                    yield batch
                    batch = Batch()
    if batch.size:
        yield batch


def _joined(column: Strings) -> pa.StringArray:
    arrays: list[pa.StringArray] = []
    for single, values in groupby(column, lambda value: isinstance(value, str)):
        run = list(values)
        arrays += [pa.array(run, pa.string())] if single else run
    return pa.concat_arrays(arrays or [pa.array([], pa.string())])


def _metadata(fields: dict[str, Any], names: Sequence[str]) -> str:
    kept = {name: fields[name] for name in names if name in fields}
    try:
        return orjson.dumps(kept, default=str).decode()
    except TypeError:  # integers of more than 64 bits, or bytes outside the encoding
        return SURROGATE.sub("\ufffd", json.dumps(kept, default=str, ensure_ascii=False, separators=(",", ":")))


@lru_cache(maxsize=1)
def _passages(evaluation_sets: tuple[Piece, ...], n: int) -> Passages:
    by_source = groupby(evaluation_sets, lambda piece: piece.source)
    return Passages((text for _, pieces in by_source for text in _evaluation_texts(pieces)), n)


def _evaluation_texts(pieces: Iterable[Piece]) -> Iterator[str]:
    """Yield the texts of an evaluation set.

    Raises:
        InputError: there are none, so nothing would be found.
    """
    n_texts, problem = 0, ""
    for piece in pieces:
        source = piece.source
        for record in (usable(record, source) for record in one_by_one(read_texts(piece))):
            if isinstance(record, Record):
                n_texts += 1
                yield record.fields[source.text]
            elif not problem:
                problem = f"; the first problem: {piece.file.name} {record.location}: {record.reason}"
    if not n_texts:
        raise InputError(f"The evaluation set {source.title!r} ({source.uri}) has no usable text{problem}.")


@lru_cache(maxsize=1)
def _bad_words(files: tuple[File, ...]) -> frozenset[str]:
    """Return the words of lists.

    Raises:
        InputError: a list is too large to be one.
    """
    words: frozenset[str] = frozenset()
    for file in files:
        try:
            with file.open() as stream:
                words |= bad_words_of(read_whole(stream, WORDS_BYTES).decode("utf-8-sig", "replace").splitlines())
        except UnreadableError:
            raise InputError(f"{file.uri} is larger than {WORDS_BYTES:,} bytes; bad_words names a list.") from None
    return words
