"""`tokenmill datasets diff`: two versions of a dataset side by side, in the terminal or as a page of HTML."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.console import print_unbroken, standard_output
from pipelines.catalog.diff import Comparison, Document, DocumentChanges, TokenShift, compare
from pipelines.report.page import numeric_columns, render, shown, write_page
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store
from pipelines.visible import one_line, shorten

COPIED = ("doc_id", "source", "location", "key", "role", "name", "reason")
"""Columns whose cells people copy; they are never broken."""


@dataclass(frozen=True)
class Section:
    """A titled table of a comparison; numbers keep their type, so that terminal and page can align them."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    note: str = ""


def diff(a: str, b: str, store: Store, page: Path | None = None, console: Console | None = None) -> None:
    """Print the changes from one dataset to another, and write them as a page too if a path is given.

    Raises:
        InputError: there is no such dataset, or they are of different kinds.
    """
    console = console or standard_output()
    comparison = compare(*_open(a, b, store), store)
    console.print(Text(one_line(headline(comparison)), "bold"), end="\n\n")
    for section in sections(comparison):
        table = Table(title=section.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        table.pad_edge = False
        numeric = numeric_columns(section.rows)
        for i, column in enumerate(section.columns):
            justify: Any = "right" if i in numeric else "left"
            is_copied = i in numeric or column in COPIED
            table.add_column(column, justify=justify, overflow="ellipsis" if is_copied else "fold", no_wrap=is_copied)
        for row in section.rows:
            table.add_row(*(Text(one_line(shown(cell))) for cell in row))
        print_unbroken(table, console)
        if section.note:
            console.print(Text(section.note, "dim"), end="\n\n")
    if page:
        write_page(page, render("page.html", title=headline(comparison), svg="", sections=sections(comparison)))
        console.print(Text(one_line(f"Written to {page}.")))


def _open(a: str, b: str, store: Store) -> tuple[Dataset, Dataset]:
    """Return two datasets. A name without a kind means the kind of the other."""
    kinds = [each.partition("/")[0] for each in (a, b) if "/" in each]
    first = store.open(a, kinds[0] if len(kinds) == 1 else None)
    return first, store.open(b, None if len(kinds) == 2 else first.ref.kind)


def headline(comparison: Comparison) -> str:
    """Return the whole comparison in a sentence."""
    a, b, documents, tokens = comparison.a, comparison.b, comparison.documents, comparison.tokens
    if comparison.same:
        return f"{a} and {b} hold the same bytes."
    parts = []
    if documents:
        parts.append("documents: " + _counts(documents))
    if tokens:
        parts.append(f"{tokens.before:,} tokens became {tokens.after:,}")
        parts.append(f"a shift of {tokens.divergence:.4f} bits")
    return f"From {a} to {b}" + (f": {'; '.join(parts)}." if parts else ".")


def sections(comparison: Comparison) -> list[Section]:
    """Return the comparison as tables, without those in which nothing changed."""
    between = ("before", "after")
    rejections = [(reason, x, y, y - x) for reason, x, y in comparison.rejections]
    every = [
        Section("Config", ("key", *between), comparison.config),
        Section("Inputs", ("role", *between), comparison.inputs),
        Section("Statistics", ("name", *between), [tuple(map(_rounded, row)) for row in comparison.statistics]),
        *(_document_sections(comparison.documents) if comparison.documents else ()),
        Section("Left out, by reason", ("reason", *between, "change"), rejections),
        *(_token_sections(comparison.tokens) if comparison.tokens else ()),
    ]
    return [section for section in every if section.rows]


def _document_sections(documents: DocumentChanges) -> Iterator[Section]:
    columns = ("doc_id", "source", "location", "text")
    counts = ("source", "split", "before", "after", "change")
    by_source = [(source, split, x, y, y - x) for source, split, x, y in documents.by_source]
    changed = [(y.source, y.location, *_around_change(x.text, y.text)) for x, y in documents.changed]
    yield Section("Documents by source and split", counts, by_source, note=_counts(documents))
    yield Section("Documents added", columns, [_row(document) for document in documents.added])
    yield Section("Documents removed", columns, [_row(document) for document in documents.removed])
    yield Section("Documents changed", ("source", "location", "before", "after"), changed)


def _token_sections(tokens: TokenShift) -> Iterator[Section]:
    yield Section(
        "Tokens that moved most",
        ("token", "% before", "% after", "millibits"),
        [(repr(t.text), *(round(n, 4) for n in (t.before * 100, t.after * 100, t.bits * 1000))) for t in tokens.moved],
        note=f"Jensen-Shannon divergence {tokens.divergence:.6f} bits of at most 1, for nothing in common; "
        f"{tokens.documents_changed:,} documents are in both with other tokens.",
    )


def _counts(documents: DocumentChanges) -> str:
    counts = {
        "added": documents.n_added,
        "removed": documents.n_removed,
        "changed": documents.n_changed,
        "in another split": documents.resplit,
        "the same": documents.same - documents.resplit,
    }
    return ", ".join(f"{n:,} {word}" for word, n in counts.items() if n)


def _row(document: Document) -> tuple[str, ...]:
    return document.doc_id[:12], document.source, document.location, _short(document.text)


def _rounded(cell: Any) -> Any:
    return float(f"{cell:.4g}") if isinstance(cell, float) else cell


def _short(text: str, length: int = 80) -> str:
    return shorten(" ".join(text.split()), length)


def _around_change(before: str, after: str) -> tuple[str, str]:
    """Return both texts from a little before the first character that differs."""
    differs = (i for i, (x, y) in enumerate(zip(before, after, strict=False)) if x != y)
    start = max(0, next(differs, min(len(before), len(after))) - 20)
    lead = "…" if start else ""
    return lead + _short(before[start:]), lead + _short(after[start:])
