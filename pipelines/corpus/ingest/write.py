"""The second pass of ingest: documents that are not duplicates are written, rejected records are listed."""

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus.documents import REJECTED, sizes_of
from pipelines.corpus.duplicates import parts_with_duplicates, rows_to_drop
from pipelines.corpus.folders import Skipped
from pipelines.corpus.ingest.config import SourceConfig
from pipelines.corpus.ingest.partitions import Entry
from pipelines.corpus.ingest.read import Part
from pipelines.corpus.parquet import TableWriter, read_batches, read_rows
from pipelines.store.files import link_or_copy
from pipelines.store.step import StepContext

REASONS = 10_000  # that are counted one by one: a hostile file can give each row its own
Written = tuple[Counter[str], list[int]]  # counts of a part after the second pass, and the rows that were dropped


@dataclass(frozen=True)
class Rewrite:
    """A part that is written again, without its duplicates."""

    part: Part
    number: int
    duplicates: Path
    target: Path


def write_documents(work: StepContext, parts: list[Part], targets: list[Path], duplicates: Path) -> list[Written]:
    """Write each part with duplicates in a task of its own. The other parts stay as they are."""
    numbers = sorted(parts_with_duplicates(duplicates))
    work.listener.progress(len(parts) - len(numbers), len(parts), "parts", "dropping duplicates")
    rewrites = [Rewrite(parts[number], number, duplicates, targets[number]) for number in numbers]
    rewritten = dict(zip(numbers, work.map(write_part, rewrites), strict=True))
    for number, part in enumerate(parts):
        if number not in rewritten:
            link_or_copy(part.documents, targets[number])
    return [rewritten.get(number, (Counter(part.counts), [])) for number, part in enumerate(parts)]


def write_part(rewrite: Rewrite) -> Written:
    """Write the documents that stay to the target, and the duplicates to `part.dropped`."""
    part = rewrite.part
    drop = rows_to_drop(rewrite.duplicates, rewrite.number)
    dropped = sorted(drop)
    before = part.before if tuple(dropped) == part.dropped_before else None
    if before:
        link_or_copy(before, rewrite.target)
    counts: Counter[str] = Counter()
    kept = nullcontext() if before else TableWriter(rewrite.target, pq.read_schema(part.documents))
    with kept as good, TableWriter(part.dropped, REJECTED) as bad:
        first = 0
        for batch in read_batches(part.documents):
            numbers = np.arange(first, first + len(batch))
            stays = ~np.isin(numbers, dropped)
            for number, row in zip(numbers[~stays], batch.filter(pa.array(~stays)).to_pylist(), strict=True):
                bad.write(row | drop[number])
            staying = batch.filter(pa.array(stays))
            counts.update(sizes_of(staying))
            if good:
                good.write_batch(staying)
            first += len(batch)
    return counts, dropped


def write_rejected(
    target: Path, parts: list[Part], written: list[Written], skipped: list[tuple[SourceConfig, Skipped]]
) -> tuple[Counter[str], list[Entry]]:
    """Write one table of all that was rejected, in the order of the sources.

    Returns:
        the number of rows for each reason, and what each part became.
    """
    reasons: Counter[str] = Counter()
    entries: list[Entry] = []
    with TableWriter(target, REJECTED) as table:
        for source, file in skipped:
            table.write({"source": source.title, "location": file.name, "reason": file.reason})
            reasons[file.reason] += 1
        for number, (part, (_, dropped)) in enumerate(zip(parts, written, strict=True)):
            first = table.rows
            for path in (part.rejected, *([part.dropped] if dropped else [])):
                for row in read_rows(path):
                    table.write(row)
                    known = row["reason"] in reasons or len(reasons) < REASONS
                    reasons[row["reason"] if known else "another reason"] += 1
            first_pass = part.model_dump(include={"counts", "usable", "longest", "problem", "doubtful"})
            n_rejected = table.rows - first - len(dropped)
            place = {"number": number, "first_rejected": first, "rejected": n_rejected, "dropped": dropped}
            entries.append(place | first_pass)
    return reasons, entries


def count_by_reason(rejected: Iterable[tuple[str, int]]) -> Counter[str]:
    """Return the statistics of rejected rows: their numbers by reason, in names that SQL can read."""
    counts: Counter[str] = Counter()
    for reason, count in rejected:
        words = reason.lower()
        for sign, word in ((">=", "at least"), ("<=", "at most"), (">", "above"), ("<", "below")):
            words = words.replace(sign, f" {word} ")
        counts["rejected_" + re.sub(r"\W+", "_", words).strip("_")[:48]] += count
    return counts
