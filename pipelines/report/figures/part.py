"""A part of a report: a title, a figure or a table, and a note."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from pipelines.evaluation.results import MODEL

MAX_CHARACTERS = 200  # of a text in a table


@dataclass(frozen=True)
class ReadToken:
    """A token of a text that a model reads. strength: the surprise, 0 to 100; title: what the model expected."""

    text: str
    strength: int
    title: str


@dataclass(frozen=True)
class Part:
    """A figure, a table, texts to read, or a figure with the table of its numbers.

    title: what it shows; unique among the parts of a dataset.
    note: how to read it, in a sentence.
    svg: the figure.
    columns, rows: the table.
    texts: pairs of title and text.
    tokens: a text token by token.
    wide: whether the figure needs the width of the page.
    beside: whether the columns of the table are to be compared: they are wide, and line breaks in them are shown.
    """

    title: str
    note: str = ""
    svg: str = ""
    columns: tuple[str, ...] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    texts: Sequence[tuple[str, str]] = ()
    tokens: Sequence[ReadToken] = ()
    wide: bool = False
    beside: bool = False


def slug(text: str) -> str:
    """Return a title in a form that fits into a file name or an address."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def name_of(system: str) -> str:
    """Return a system's name as a page shows it."""
    return "this model" if system == MODEL else system.replace("_", " ")


def cells(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Return rows with values that fit into a table: rounded numbers and the beginning of texts."""

    def fit(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, 4)
        return value[:MAX_CHARACTERS] if isinstance(value, str) else value

    return [tuple(map(fit, row)) for row in rows]


Ask = Callable[[str], list[tuple[Any, ...]]]


@contextmanager
def query_tables(**tables: Sequence[Path] | pa.Table) -> Iterator[Ask]:
    """Yield a function that answers SQL about tables, each of which may consist of Parquet files."""
    with duckdb.connect() as database:
        for name, table in tables.items():
            database.register(name, table if isinstance(table, pa.Table) else ds.dataset(table, format="parquet"))
        yield lambda query: database.execute(query).fetchall()
