"""Held-out documents of small corpora, in which the shares of a config may hold out nothing.

A document's split stays a function of its content and of two shares. The corpus takes other shares than those of its
config: the nearest ones with which no split is empty.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus.documents import SPLITS, SplitConfig, place_of, sizes_of, split_of
from pipelines.corpus.parquet import TableWriter, read_batches


def empty_splits(counts: Mapping[str, int], shares: SplitConfig) -> list[str]:
    """Return the splits that should have a document but have none."""
    wanted = {"train": 1 - shares.validation - shares.test, "validation": shares.validation, "test": shares.test}
    return [split for split in SPLITS if wanted[split] > 1e-9 and not counts[f"documents_{split}"]]


def nearest_shares(places: Sequence[float], shares: SplitConfig) -> SplitConfig:
    """Return the shares nearest to some with which no split is empty. Two documents have no validation split.

    Args:
        places: where the hash of each document puts it.
        shares: the wanted shares, with which a split is empty.
    """
    places = sorted(set(places))
    n = len(places)
    n_test = max(sum(place < shares.test for place in places), int(shares.test > 0))
    n_validation = max(sum(place >= 1 - shares.validation for place in places), int(shares.validation > 0))
    if n < 1 + bool(n_test) + bool(n_validation):
        n_validation = 0
    while n_test + n_validation >= n and max(n_test, n_validation) > 1:
        n_test, n_validation = (n_test - 1, n_validation) if n_test > n_validation else (n_test, n_validation - 1)
    if n_test + n_validation >= n:
        return shares
    middles = [0.0, *((one + other) / 2 for one, other in pairwise(places)), 1.0]
    return SplitConfig(
        test=middles[n_test] if n_test else 0.0, validation=1 - middles[n - n_validation] if n_validation else 0.0
    )


def hold_out(parts: Sequence[Path], shares: SplitConfig) -> tuple[SplitConfig, Counter[str]]:
    """Write the splits of a corpus's parts again, by the nearest shares with which none is empty.

    Returns:
        these shares, and the number of documents and bytes of each split.
    """
    batches = (batch for part in parts for batch in read_batches(part, ["doc_id"]))
    places = [place_of(doc_id) for batch in batches for doc_id in batch["doc_id"].to_pylist()]
    shares = nearest_shares(places, shares)
    counts: Counter[str] = Counter()
    for part in parts:
        before = part.rename(part.with_name(f"before-{part.name}"))
        with TableWriter(part, pq.read_schema(before)) as table:
            for batch in read_batches(before):
                splits = pa.array([split_of(doc_id, shares) for doc_id in batch["doc_id"].to_pylist()], pa.string())
                batch = batch.set_column(batch.schema.get_field_index("split"), "split", splits)
                table.write_batch(batch)
                counts.update(sizes_of(batch))
        before.unlink()
    return shares, counts
