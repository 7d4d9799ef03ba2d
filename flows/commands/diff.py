"""`tokenmill datasets diff`: two versions of a dataset side by side, in the terminal or as a page of HTML."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.commands.pages import write_page
from pipelines.catalog.diff import Comparison, Document, DocumentChanges, compare
from pipelines.store.store import Store


@dataclass(frozen=True)
class Section:
    """A titled table of a comparison; numbers are its cells' own type, so that each medium can align them."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    note: str = ""


def diff(a: str, b: str, store: Store, page: Path | None = None, console: Console | None = None) -> None:
    """Print what changed from one dataset to another, and write it as a page too if a path is given.

    Raises:
        InputError: there is no such dataset, or they are of different kinds.
    """
    console = console or Console()
    comparison = compare(store.open(a), store.open(b), store)
    console.print(f"[bold]{escape(headline(comparison))}[/]\n")
    for section in sections(comparison):
        table = Table(
            title=section.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for i, column in enumerate(section.columns):
            numeric = all(isinstance(row[i], int | float | None) for row in section.rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in section.rows:
            table.add_row(*(escape(_shown(cell)) for cell in row))
        console.print(table)
        if section.note:
            console.print(f"[dim]{escape(section.note)}[/]\n")
    if page:
        write_page(page, to_html(comparison))
        console.print(f"Written to {page}.")


def headline(comparison: Comparison) -> str:
    """The whole comparison in a sentence."""
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


def sections(comparison: Comparison) -> Iterator[Section]:
    """The comparison as tables, without those in which nothing changed."""
    documents, tokens = comparison.documents, comparison.tokens
    between = ("before", "after")
    every = [
        Section("Config", ("key", *between), [(k, _word(x), _word(y)) for k, x, y in comparison.config]),
        Section("Inputs", ("role", *between), list(comparison.inputs)),
        Section("Statistics", ("name", *between), list(comparison.statistics)),
    ]
    if documents:
        every += [
            Section(
                "Documents by source and split",
                ("source", "split", *between, "change"),
                [(source, split, x, y, y - x) for source, split, x, y in documents.by_source],
                note=_counts(documents),
            ),
            Section("Documents added", _COLUMNS, [_row(d) for d in documents.added]),
            Section("Documents removed", _COLUMNS, [_row(d) for d in documents.removed]),
            Section(
                "Documents changed",
                ("source", "location", *between),
                [(y.source, y.location, *_around_change(x.text, y.text)) for x, y in documents.changed],
            ),
        ]
    every.append(
        Section(
            "Left out, by reason",
            ("reason", *between, "change"),
            [(reason, x, y, y - x) for reason, x, y in comparison.rejections],
        )
    )
    if tokens:
        every.append(
            Section(
                "Tokens that moved most",
                ("token", "% before", "% after", "millibits"),
                [(repr(t.text), _percent(t.before), _percent(t.after), round(t.bits * 1000, 4)) for t in tokens.moved],
                note=f"Jensen-Shannon divergence {tokens.divergence:.6f} bits of at most 1, for nothing in common; "
                f"{tokens.documents_changed:,} documents are in both with other tokens.",
            )
        )
    return (section for section in every if section.rows)


_COLUMNS = ("doc_id", "source", "location", "text")


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


def _short(text: str, length: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _around_change(before: str, after: str) -> tuple[str, str]:
    """Both texts from a little before the first character in which they differ."""
    same = next(
        (i for i, (x, y) in enumerate(zip(before, after, strict=False)) if x != y), min(len(before), len(after))
    )
    start = max(0, same - 20)
    lead = "…" if start else ""
    return lead + _short(before[start:]), lead + _short(after[start:])


def _percent(share: float) -> float:
    return round(share * 100, 4)


def _word(value: Any) -> Any:
    return "" if value is None else value if isinstance(value, int | float) else str(value)


def _shown(cell: Any) -> str:
    if isinstance(cell, bool) or cell is None:
        return "" if cell is None else str(cell).lower()
    return f"{cell:,}" if isinstance(cell, int | float) else str(cell)


# The page

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; } p.note { opacity: .7; font-size: .9rem; }
"""


def to_html(comparison: Comparison) -> str:
    """A page that needs nothing but itself."""
    title = html.escape(headline(comparison))
    body = "".join(_html_section(section) for section in sections(comparison))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{body}</html>\n"
    )


def _html_section(section: Section) -> str:
    numeric = [all(isinstance(row[i], int | float | None) for row in section.rows) for i in range(len(section.columns))]

    def row(cells: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(
            f"<{tag}{' class=number' if number else ''}>{html.escape(_shown(cell))}</{tag}>"
            for cell, number in zip(cells, numeric, strict=True)
        )

    rows = row(section.columns, "th") + "".join(row(each, "td") for each in section.rows)
    note = f"<p class=note>{html.escape(section.note)}</p>" if section.note else ""
    return f"<h2>{html.escape(section.title)}</h2><div class=scroll><table>{rows}</table></div>{note}"
