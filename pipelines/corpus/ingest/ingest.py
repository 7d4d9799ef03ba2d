"""Ingest: source files become a corpus of clean documents, each once, and a table of what was rejected and why.

Ingest makes two passes over partitions of the source files. The first pass reads, normalises and hashes. Then one
query finds the duplicates, and the second pass writes what stays. Memory does not grow with the corpus.

When the sources grew, partitions that the last version had too are rebuilt from it instead of being read again, and
their files are shared with it. The result is the same, byte for byte, as if everything had been read again.

Output: `documents/part-*.parquet` and `rejected.parquet`, with the columns of `documents.DOCUMENTS` and `REJECTED`,
and `partitions.json`, a list of partitions by key and of the `Entry`s that their parts became.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipelines.corpus.documents import SIZES, split_counts
from pipelines.corpus.duplicates import find_duplicates
from pipelines.corpus.folders import Skipped
from pipelines.corpus.ingest.config import VERSION, IngestConfig, SourceConfig
from pipelines.corpus.ingest.divide import division_of, is_divided_by_keys
from pipelines.corpus.ingest.guesses import count_guesses, describe_guesses, warn_of_doubtful
from pipelines.corpus.ingest.hold_out import empty_splits, hold_out
from pipelines.corpus.ingest.partitions import PARTITIONS, Partition, known_partitions, plan
from pipelines.corpus.ingest.read import Part, check_usable, parts_with, read_partition
from pipelines.corpus.ingest.write import count_by_reason, write_documents, write_rejected
from pipelines.corpus.quality import rules_of
from pipelines.corpus.sources import Listing, describe_sources, hashing_watched, list_sources
from pipelines.errors import InputError
from pipelines.numbers import counted, short
from pipelines.store.dataset import Dataset
from pipelines.store.files import write_json
from pipelines.store.manifest import SourceFile
from pipelines.store.step import Meter, StepContext, StepType

LOST = ("lost_rows", "lost_bytes")  # that could not be read behind a damage, beside the rejected record


def run(inputs: Mapping[str, Dataset], config: IngestConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Build the corpus."""
    rules_of(config.keep, config.bad_words is not None)
    listing = list_sources(config.all_sources)
    later = work.files_that_came_later(lambda: describe_sources(config.all_sources, listing))
    partitions, parts_of, skipped, n_texts = _read(config, listing, work, later)
    parts = [part for parts in parts_of for part in parts]
    duplicates = find_duplicates(
        [part.documents for part in parts], work.scratch, config.near_duplicates, work.listener
    )
    (out / "documents").mkdir()
    targets = [out / "documents" / f"part-{number:05d}.parquet" for number in range(len(parts))]
    written = write_documents(work, parts, targets, duplicates)
    rejected, entries = write_rejected(out / "rejected.parquet", parts, written, skipped)
    total = sum((counts for counts, _ in written), Counter())
    if not total["documents"]:
        problem = next(part.problem for part in parts if part.problem)
        raise InputError(f"Every document was rejected; the first: {problem}")
    held_out = {}
    if total["documents"] > 1 and (empty := empty_splits(total, config.split)):
        shares, total = hold_out(targets, config.split)
        held_out = {"validation_share": shares.validation, "test_share": shares.test}
        work.listener.warn(
            f"the shares of [ingest.split] leave {' and '.join(empty)} empty; {total['documents']:,} documents were "
            f"divided into {split_counts(total, 'documents')} instead"
        )
    entry = iter(entries)  # parts with splits by other shares are not for the next version
    table = [(partition.key, [next(entry) for _ in of]) for partition, of in zip(partitions, parts_of, strict=True)]
    write_json(out / PARTITIONS, [] if held_out else table)
    first_pass = sum((Counter(part.counts) for part in parts), Counter())
    first = dict(pair for part in reversed(parts) for pair in part.doubtful.items())
    warn_of_doubtful(first, first_pass, work.listener.warn)
    return {
        **{name: total[name] for name in SIZES},
        "rejected": sum(rejected.values()),
        **({"texts": n_texts} if n_texts else {}),
        **held_out,
        **count_by_reason(rejected.most_common(12)),
        "undecodable_bytes": first_pass["undecodable"],
        **count_guesses(first_pass),
        **{name: first_pass[name] for name in LOST if first_pass[name]},
        **{f"cleaned_{name}": first_pass[f"cleaned_{name}"] for name in config.clean},
        "parts": len(parts),
        "parts_shared": sum(part.before is not None for part in parts),
    }


def _read(
    config: IngestConfig, listing: Listing, work: StepContext, later: Collection[str]
) -> tuple[list[Partition], list[list[Part]], list[tuple[SourceConfig, Skipped]], int]:
    """Read the sources, and again if long texts have to be divided.

    Returns:
        the partitions, the parts of each, the files that were skipped, and the number of texts if some were divided.
    """
    known = known_partitions(work)
    for source, (_, unread) in listing.items():
        if own := [file.name for file in unread if file.is_own]:
            more = f" and {len(own) - 1:,} more" if own[1:] else ""
            work.listener.warn(f"{source.uri}: left out {own[0]}{more}, which tokenmill keeps and are no source")
    n_bytes = sum(file.bytes for files, _ in listing.values() for file in files)
    with hashing_watched(Meter(work.listener, n_bytes, "bytes", "dividing into partitions")):
        partitions, skipped = plan(config, listing, work.scratch, known, later)
    work.listener.progress(0, len(partitions), "partitions", "reading")
    parts_of = work.map(read_partition, partitions)
    check_usable(config, partitions, parts_of, skipped)
    first = sum((Counter(part.counts) for parts in parts_of for part in parts), Counter())
    n_texts, division = first["documents"], division_of(first["documents"], first["bytes"])
    long = [
        source.title
        for source in config.sources
        if not is_divided_by_keys(source)
        and any(
            part.longest.get(source.title, 0) > division.longer_than
            for part in parts_with(source, partitions, parts_of)
        )
    ]
    if not long:
        return partitions, parts_of, skipped, 0
    divided, _ = plan(config, listing, work.scratch / "divided", known, later, division)
    work.listener.progress(0, len(divided), "partitions", "dividing long texts")
    pieces_of = work.map(read_partition, divided)
    n_documents = sum(part.counts["documents"] for parts in pieces_of for part in parts)
    if n_documents <= n_texts:  # rules of the config reject the pieces
        return partitions, parts_of, skipped, 0
    work.listener.warn(
        f"{', '.join(dict.fromkeys(long))}: long texts were divided, so that {n_texts:,} became {n_documents:,} "
        "documents and none is a large part of the corpus; split_at and max_document divide texts in another way"
    )
    return divided, pieces_of, skipped, n_texts


def sources(config: IngestConfig) -> tuple[SourceFile, ...]:
    """Return name, size and digest of every file that the config names, in the order in which they are read."""
    return describe_sources(config.all_sources, list_sources(config.all_sources))


def _details(dataset: Dataset) -> str:
    statistics = dataset.manifest.statistics
    return "\n".join([_headline(statistics), *describe_guesses(statistics)])


def _headline(s: Mapping[str, Any]) -> str:
    divided = f" (divided from {s['texts']:,})" if "texts" in s else ""
    lost = "".join(f", {s[name]:,} {name.removeprefix('lost_')} lost" for name in LOST if s.get(name))
    return (
        f"{counted(s['documents'], 'document')}{divided}, {short(s['bytes'])} bytes, {s['rejected']:,} rejected{lost}"
    )


INGEST = StepType(
    "ingest",
    kind="corpus",
    version=VERSION,
    config=IngestConfig,
    run=run,
    sources=sources,
    packages=("pipelines.corpus",),
    headline=_headline,
    details=_details,
)
