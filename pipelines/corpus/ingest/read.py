"""The first pass of ingest: a partition's files become clean, hashed documents."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

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

    usable: the number of documents of each source, by name.
    longest: bytes of its longest document.
    problem: why the first record was rejected, if one was.
    doubtful: the first file of each doubtful guess, by key and value.
    before: the file in which an earlier corpus kept these documents, without the rows `dropped_before`.
    """

    documents: Path
    rejected: Path
    counts: dict[str, int]
    usable: dict[str, int]
    longest: dict[str, int]
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
        known = {name: entry[name] for name in ("counts", "usable", "longest", "problem", "doubtful")}
        yield Part(documents=documents, rejected=rejected, before=before, dropped_before=places, **known)


def _read(partition: Partition) -> Iterator[Part]:
    batches = read_batches(partition)
    for number, first in enumerate(batches):
        documents, rejected = _files(partition, number)
        counts: Counter[str] = Counter()
        usable: Counter[str] = Counter()
        longest, problem, doubtful = dict[str, int](), "", dict[str, str]()
        with TableWriter(documents, columns_of(partition.config)) as good, TableWriter(rejected, REJECTED) as bad:
            for rows, batch in chain([first], batches):
                good.write_batch(rows)
                for row in batch.rejected:
                    problem = problem or f"{row['location']}: {row['reason']}"
                    bad.write(row)
                counts.update(batch.counts)
                doubtful = batch.doubtful | doubtful
                counts.update(sizes_of(rows))
                sizes = pa.table({"source": rows["source"], "n": rows["n_bytes"]}).group_by("source")
                for row in sizes.aggregate([("n", "count"), ("n", "max")]).to_pylist():
                    usable[row["source"]] += row["n_count"]
                    longest[row["source"]] = max(longest.get(row["source"], 0), row["n_max"])
                if good.text_bytes + bad.text_bytes >= partition.config.partition_bytes:
                    break
        found = {"counts": counts, "usable": usable, "longest": longest, "problem": problem, "doubtful": doubtful}
        yield Part(documents=documents, rejected=rejected, **found)


def _files(partition: Partition, number: int) -> tuple[Path, Path]:
    return partition.folder / f"documents-{number:05d}.parquet", partition.folder / f"rejected-{number:05d}.parquet"


def columns_of(config: IngestConfig) -> pa.Schema:
    """Return the columns of a corpus. Two dozen statistics cost time in every row even if null, so few have them."""
    return DOCUMENTS if config.keep else DOCUMENTS.remove(DOCUMENTS.get_field_index("statistics"))


def parts_with(source: SourceConfig, partitions: Sequence[Partition], parts_of: Sequence[Sequence[Part]]) -> list[Part]:
    """Return the parts that may have documents of a source."""
    holds = [any(piece.source is source for piece in partition.pieces) for partition in partitions]
    return [part for has_some, parts in zip(holds, parts_of, strict=True) if has_some for part in parts]


def check_usable(
    config: IngestConfig,
    partitions: Sequence[Partition],
    parts_of: Sequence[Sequence[Part]],
    skipped: Sequence[tuple[SourceConfig, Skipped]],
) -> None:
    """Raise an InputError with the first problem if a source has no usable document."""
    for source in config.sources:
        parts = parts_with(source, partitions, parts_of)
        if not any(part.usable.get(source.title) for part in parts):
            rejected = (row for part in parts for row in read_rows(part.rejected, ["source", "location", "reason"]))
            problems = chain(
                (f"{row['location']}: {row['reason']}" for row in rejected if row["source"] == source.title),
                (f"{file.name}: {file.reason}" for of, file in skipped if of is source),
            )
            why = f"; the first problem: {problem}" if (problem := next(problems, None)) else ""
            raise InputError(f"The source {source.title!r} ({source.uri}) has no usable document{why}.")
