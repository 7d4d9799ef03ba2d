"""The first pass of ingest: a partition's files become clean, hashed documents."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from gpt.config import Config
from pipelines.corpus.documents import DOCUMENTS, REJECTED, sizes_of, split_of
from pipelines.corpus.duplicates import write_signatures
from pipelines.corpus.folders import Skipped
from pipelines.corpus.ingest.batches import read_batches
from pipelines.corpus.ingest.config import IngestConfig, SourceConfig
from pipelines.corpus.ingest.partitions import Partition
from pipelines.corpus.parquet import TableWriter, read_rows, read_some_rows
from pipelines.errors import InputError
from pipelines.store.files import link_or_copy
from pipelines.store.partitions import mark_done, read_done


class Part(Config):
    """The two files of a part of a partition, documents and what was rejected, with their counts.

    longest: bytes of the longest document.
    problem: why the first record was rejected, if one was.
    doubtful: the first file of each doubtful guess, by key and value.
    before: the file in which an earlier corpus kept these documents, without the rows `dropped_before`.
    """

    documents: Path
    rejected: Path
    counts: dict[str, int]
    longest: int
    problem: str = ""
    doubtful: dict[str, str] = {}
    before: Path | None = None
    dropped_before: tuple[int, ...] = ()

    @property
    def dropped(self) -> Path:
        """The file to which the second pass writes the duplicates."""
        return self.documents.with_name(f"dropped-{self.documents.name}")


def read_partition(partition: Partition) -> list[Part]:
    """Read a partition's files into one or more parts of limited size, once, even if the run is killed afterwards."""
    if (done := read_done(partition.folder)) is not None:
        return [Part.model_validate(part) for part in done]
    partition.folder.mkdir(parents=True, exist_ok=True)
    parts = list(_restore(partition) if partition.known else _read(partition))
    if partition.config.near_duplicates is not None:
        for part in parts:
            write_signatures(part.documents)
    mark_done(partition.folder, [part.model_dump(mode="json") for part in parts])
    return parts


def _restore(partition: Partition) -> Iterator[Part]:
    """Rebuild the first pass from an earlier corpus: its kept and its dropped documents, in the original order."""
    assert partition.known
    corpus, entries = partition.known
    for number, entry in enumerate(entries):
        documents, rejected = _files(partition, number)
        before = corpus / "documents" / f"part-{entry['number']:05d}.parquet"
        places = entry["dropped"]
        rows = read_some_rows(corpus / "rejected.parquet", entry["first_rejected"], entry["rejected"] + len(places))
        with TableWriter(rejected, REJECTED) as table:
            for row in islice(rows, entry["rejected"]):
                table.write(row)
        if places:
            kept = read_rows(before)
            with TableWriter(documents, columns_of(partition.config)) as table:
                for place, row in zip(places, rows, strict=True):
                    for between in islice(kept, place - table.rows):
                        table.write(between)
                    split, n_bytes = split_of(row["doc_id"], partition.config.split), len(row["text"].encode())
                    table.write(row | {"split": split, "n_bytes": n_bytes})
                for row in kept:
                    table.write(row)
        else:
            link_or_copy(before, documents)
        known = {name: entry[name] for name in ("counts", "longest", "problem", "doubtful")}
        yield Part(documents=documents, rejected=rejected, before=before, dropped_before=places, **known)


def _read(partition: Partition) -> Iterator[Part]:
    batches = read_batches(partition)
    for number, first in enumerate(batches):
        documents, rejected = _files(partition, number)
        counts: Counter[str] = Counter()
        longest, problem, doubtful = 0, "", dict[str, str]()
        with TableWriter(documents, columns_of(partition.config)) as good, TableWriter(rejected, REJECTED) as bad:
            for rows, batch in chain([first], batches):
                good.write_batch(rows)
                for row in batch.rejected:
                    problem = problem or f"{row['location']}: {row['reason']}"
                    bad.write(row)
                counts.update(batch.counts)
                doubtful = batch.doubtful | doubtful
                counts.update(sizes_of(rows))
                longest = max(longest, pc.max(rows["n_bytes"]).as_py() or 0)
                if good.text_bytes + bad.text_bytes >= partition.config.partition_bytes:
                    break
        found = {"counts": counts, "longest": longest, "problem": problem, "doubtful": doubtful}
        yield Part(documents=documents, rejected=rejected, **found)


def _files(partition: Partition, number: int) -> tuple[Path, Path]:
    return partition.folder / f"documents-{number:05d}.parquet", partition.folder / f"rejected-{number:05d}.parquet"


def columns_of(config: IngestConfig) -> pa.Schema:
    """Return the columns of a corpus. Two dozen statistics cost time in every row even if null, so few have them."""
    return DOCUMENTS if config.keep else DOCUMENTS.remove(DOCUMENTS.get_field_index("statistics"))


def check_usable(
    config: IngestConfig,
    partitions: Sequence[Partition],
    parts_of: Sequence[Sequence[Part]],
    skipped: Sequence[tuple[SourceConfig, Skipped]],
) -> None:
    """Raise an InputError with the first problem if a source has no usable document."""
    for source in config.sources:
        read = [parts for partition, parts in zip(partitions, parts_of, strict=True) if partition.source is source]
        if not any(part.counts["documents"] for parts in read for part in parts):
            files = (part.rejected for parts in read for part in parts)
            problems = chain(
                (f"{row['location']}: {row['reason']}" for file in files for row in read_rows(file)),
                (f"{file.name}: {file.reason}" for of, file in skipped if of is source),
            )
            why = f"; the first problem: {problem}" if (problem := next(problems, None)) else ""
            raise InputError(f"The source {source.title!r} ({source.uri}) has no usable document{why}.")
