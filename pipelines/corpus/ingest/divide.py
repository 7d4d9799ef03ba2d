"""Division of long texts. A book that is one document would be on one side of the split, so it becomes many documents.

A text that is a large part of its corpus is cut between paragraphs. The lengths depend on the size of the corpus alone,
and change when it has grown by a third or a half. So a text that grows a little keeps its pieces.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from pipelines.corpus.documents import SPLITS
from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.readers.plain import cut_place
from pipelines.corpus.readers.records import MAX_DOCUMENT, Bad, Record

LARGE_PART = 5  # a text of more than a fifth of the corpus is divided
PIECES = 50  # a piece is at most a fiftieth of the corpus, if that is long enough to learn from
ENOUGH = 4096  # characters that are long enough
FEWEST = 6  # pieces of a short text that is alone
SHORTEST = 128  # characters of a piece
GOLDEN = 0.618  # spreads the lengths of pieces, so that a text of equal lines does not become equal pieces


@dataclass(frozen=True)
class Division:
    """Texts that are longer than some characters are divided into pieces of at most some characters."""

    longer_than: int
    into: int


def division_of(n_texts: int, n_bytes: int) -> Division:
    """Return how a corpus of some texts is divided. Short ones are only divided if there are less than splits."""
    enough = ENOUGH if n_texts >= len(SPLITS) else min(ENOUGH, n_bytes // FEWEST)
    into = _rounded(max(n_bytes // PIECES, enough, SHORTEST))
    return Division(max(_rounded(n_bytes // LARGE_PART), 2 * into), into)


def _rounded(number: int) -> int:
    """Return a number rounded down to its first two bits."""
    return number & (3 << max(number.bit_length() - 2, 0))


def is_divided_by_keys(source: SourceConfig) -> bool:
    """Return whether the config says itself how to divide the texts of a source."""
    return source.split_at is not None or source.max_document != MAX_DOCUMENT


def longest_of(source: SourceConfig, division: Division | None) -> float:
    """Return the most characters of a text of a source that is not divided."""
    if source.max_document != MAX_DOCUMENT:
        return source.max_document
    return division.longer_than if division and not is_divided_by_keys(source) else math.inf


def divide(record: Record | Bad, source: SourceConfig, division: Division | None) -> Iterator[Record | Bad]:
    """Yield the pieces of a record whose text is too long, else the record."""
    text = None if isinstance(record, Bad) else record.fields.get(source.text)
    if not isinstance(text, str) or len(text) <= longest_of(source, division) or text.isspace():
        yield record
        return
    fields, location = cast(Record, record)
    by_keys = is_divided_by_keys(source)
    into = source.max_document if by_keys else cast(Division, division).into
    start, number = 0, 1
    while start < len(text):
        most = into if by_keys else into - int(number * GOLDEN % 1 * into / 2)
        end = cut_place(text, most, start) if len(text) - start > most else len(text)
        if not text[start:end].isspace():
            yield Record(fields | {source.text: text[start:end]}, f"{location} part {number}")
            number += 1
        start = end
