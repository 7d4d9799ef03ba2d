"""The rows of the catalog's views, read from the files of datasets.

Token shards are read through a memory map, Parquet files a few row groups ahead, both only when a query asks.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipelines.catalog.columns import arrow_schema
from pipelines.corpus import documents
from pipelines.store import kinds
from pipelines.store.dataset import Dataset
from pipelines.store.intact import Damaged
from pipelines.store.kinds import View
from pipelines.tokens.mapped import map_batches, wrong_schema

# The text is looked up only by queries that ask for it.
TOKENS_FLAT = """
    SELECT dataset, doc_id, split, position, token_id, _token_text(token_id::UINTEGER, dataset) AS text
    FROM (SELECT dataset, doc_id, split, unnest(range(len(tokens))) AS position, unnest(tokens) AS token_id FROM tokens)
"""


TOKENS_FLAT_COMMENT = "One row a token: its position in its document, counted from 0, and its text."

WINDOWS = """
    SELECT s.dataset, s.sample_id, s.split, t.doc_id, greatest(s.start - t.start, 0) AS position,
        least(s.start + s.length, t.start + t.n_tokens) - greatest(s.start, t.start) AS n_tokens
    FROM (SELECT dataset, sample_id, split, shard, tokens, unnest(coalesce(starts, [start])) AS start,
              unnest(coalesce(lengths, [context])) AS length FROM samples) s
    JOIN tokens t ON t.dataset = s.tokens AND t.shard = s.shard
        AND t.start < s.start + s.length AND s.start < t.start + t.n_tokens
"""

WINDOWS_COMMENT = "One row for each document in each window: the document's first token there, and how many there are."

DERIVED = {"tokens_flat": (TOKENS_FLAT, TOKENS_FLAT_COMMENT), "windows": (WINDOWS, WINDOWS_COMMENT)}
"""Views over other views: name to query and comment."""


Rows: TypeAlias = "pa.Table | ds.Dataset | Sequence[pa.RecordBatch] | Iterator[pa.RecordBatch]"


class LazyTable(ds.InMemoryDataset):
    """A table with known columns whose rows are made when a query reads them; DuckDB asks for a scanner each time."""

    def __init__(self, schema: pa.Schema, make: Callable[[], Rows]) -> None:
        super().__init__([], schema=schema)
        self._make = make

    def scanner(self, **wanted: Any) -> ds.Scanner:
        """Make the rows and return a scanner over them."""
        made = self._make()
        if isinstance(made, Iterator):
            return ds.Scanner.from_batches(made, schema=self.schema, **wanted)
        made = made if isinstance(made, ds.Dataset) else ds.InMemoryDataset(made, schema=self.schema)
        return made.scanner(**wanted, batch_readahead=4, fragment_readahead=2)


class DamagedTable(LazyTable):
    """The rows of a damaged file: the columns of its view, and an error for the query that reads them."""

    def __init__(self, view: View, error: Damaged) -> None:
        def fail() -> pa.Table:
            raise error

        super().__init__(arrow_schema(", ".join(f"{name} {type}" for name, type in view.own_columns.items())), fail)


def rows_of(dataset: Dataset, view: View) -> ds.Dataset | None:
    """Return a dataset's rows for a view, or None if the dataset has no such files.

    Columns are read at once. Files are read by the query, since they may be in a bucket.

    Raises:
        Damaged: the columns cannot be read.
    """
    if view is kinds.VOCABULARY:
        return LazyTable(VOCABULARY, partial(_vocabulary, dataset))
    names = dataset.names(view.files)
    if not names:
        return None
    schema = _schema(dataset, names[0], view)
    if names[0].endswith(".parquet"):
        return LazyTable(schema, lambda: ds.dataset(dataset.files(view.files), schema=schema, format="parquet"))
    if view is kinds.TOKENS:
        return LazyTable(schema.append(SHARD).append(START), lambda: token_batches(dataset, names))
    return LazyTable(schema, lambda: [batch for name in names for batch in map_batches(dataset, name)])


def _schema(dataset: Dataset, name: str, view: View) -> pa.Schema:
    """Return the columns of a file.

    Raises:
        Damaged: it has none, or others than expected.
    """
    if view is kinds.DOCUMENTS:
        return documents.DOCUMENTS  # parts of a mix may lack columns that other parts have
    with dataset.open(name) as file:
        try:
            schema = pq.read_schema(file) if name.endswith(".parquet") else pa.ipc.open_file(file).schema
        except (pa.ArrowException, OSError) as error:
            raise dataset.damaged(name, str(error)) from None
    if name.endswith(".arrow") and (why := wrong_schema(dataset, schema)):
        raise dataset.damaged(name, why)
    return schema


SLICE = 4096  # documents


SHARD, START = pa.field("shard", pa.int32()), pa.field("start", pa.int64())


def token_batches(dataset: Dataset, names: Sequence[str]) -> list[pa.RecordBatch]:
    """Return token shards with each document's place, in slices, so that DuckDB's threads share them."""
    placed = []
    for shard, name in enumerate(names):
        for batch in map_batches(dataset, name):  # a shard has one
            batch = batch.append_column(SHARD, pa.repeat(pa.scalar(shard, pa.int32()), batch.num_rows))
            placed.append(batch.append_column(START, batch["tokens"].offsets[:-1].cast(pa.int64())))
    return [batch.slice(at, SLICE) for batch in placed for at in range(0, batch.num_rows, SLICE)]


VOCABULARY = arrow_schema(kinds.VOCABULARY.columns)


def _vocabulary(dataset: Dataset) -> pa.Table:
    from pipelines.tokens.tokenizer import FILE
    from pipelines.tokens.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(dataset.file(FILE))
    special = set(tokenizer.special.values())
    tokens = tokenizer.token_bytes
    return pa.table(
        [
            range(len(tokens)),
            [token.decode("utf-8", "replace") for token in tokens],
            tokens,
            [len(token) for token in tokens],
            [i in special for i in range(len(tokens))],
        ],
        schema=VOCABULARY,
    )
