"""A part of the report: a title, a figure or a table, and a note."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset as ds

from pipelines.evaluation.results import MODEL

SHOWN = 200  # characters of a text in a table


@dataclass(frozen=True)
class ReadToken:
    """A token as a model met it. strength: how much of a surprise it was, 0 to 100; title: what it expected."""

    text: str
    strength: int
    title: str


@dataclass(frozen=True)
class Part:
    """A figure, a table, texts to read, or a figure with the table of its numbers.

    title: what it shows; unique among the parts of a dataset.
    note: what to make of it, in a sentence.
    svg: the figure.
    columns, rows: the table.
    texts: (title, text) of each.
    tokens: a text token by token.
    wide: the figure wants the width of the page.
    """

    title: str
    note: str = ""
    svg: str = ""
    columns: tuple[str, ...] = ()
    rows: Sequence[tuple[Any, ...]] = ()
    texts: Sequence[tuple[str, str]] = ()
    tokens: Sequence[ReadToken] = ()
    wide: bool = False


def slug(text: str) -> str:
    """A title as part of a file's name or of a page's address."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def name_of(system: str) -> str:
    return "this model" if system == MODEL else system.replace("_", " ")


def cell(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    return value[:SHOWN] if isinstance(value, str) else value


Ask = Callable[[str], list[tuple[Any, ...]]]


@contextmanager
def query_tables(**tables: Sequence[Path]) -> Iterator[Ask]:
    """Yield a function that answers SQL about tables, each made of Parquet files."""
    with duckdb.connect() as database:
        for name, files in tables.items():
            database.register(name, ds.dataset(files, format="parquet"))
        yield lambda query: database.execute(query).fetchall()
