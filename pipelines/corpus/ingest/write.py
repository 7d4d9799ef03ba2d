"""The second pass of ingest: documents that are not duplicates are written, rejected records are listed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus.documents import REJECTED
from pipelines.corpus.duplicates import parts_with_duplicates, rows_to_drop
from pipelines.corpus.ingest.partitions import Entry
from pipelines.corpus.ingest.read import Part, sizes_of
from pipelines.corpus.parquet import TableWriter, read_batches, read_rows
from pipelines.corpus.sources import Skipped
from pipelines.store.files import link_or_copy
from pipelines.store.step import StepContext

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


def write_documents(work: StepContext, parts: list[Part], targets: list[Path], duplicates: Path) -> list[Written]:
    """Parts with duplicates are written anew, each by a task of its own; the others stay as they are."""
    numbers = sorted(parts_with_duplicates(duplicates))
    work.listener.progress(0, len(numbers), "parts", "dropping duplicates")
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
            counts.update(sizes_of(staying))
            if not as_before:
                good.write_batch(staying)
    if as_before:
        kept.unlink()
        link_or_copy(cast(Path, write.part.previous), write.target)
    return Written(counts, dropped, rows)


def write_rejected(
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


def count_by_reason(rejected: Iterable[tuple[str, int]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for reason, count in rejected:
        words = reason.lower()
        for sign, word in ((">=", "at least"), ("<=", "at most"), (">", "above"), ("<", "below")):
            words = words.replace(sign, f" {word} ")
        counts["rejected_" + re.sub(r"\W+", "_", words).strip("_")[:48]] += count
    return counts
