"""Figures about corpora and examples."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.corpus.documents import Corpus
from pipelines.numbers import size
from pipelines.report import charts
from pipelines.report.charts import Axis
from pipelines.report.figures.part import Ask, Part, cells, query_tables
from pipelines.store.dataset import Dataset

MAX_REJECTED = 3  # documents that are shown for each rule

SIZES = "SELECT {}, count(*), sum(n_bytes)::BIGINT FROM documents GROUP BY ALL ORDER BY 3 DESC, 1"


def corpus_parts(dataset: Dataset, inputs: Mapping[str, Dataset]) -> Iterator[Part]:
    """Yield the parts about a corpus: sizes, lengths and rejections."""
    with query_tables(documents=Corpus(dataset).parts, rejected=[Corpus(dataset).rejected]) as ask:
        yield _sizes("Text by source", "source", ask(SIZES.format("source")))
        languages = ask(SIZES.format("coalesce(language, 'unknown')"))
        if [name for name, _, _ in languages] != ["unknown"]:
            yield _sizes("Text by language", "language", languages)
        yield _sizes("Text by split", "split", ask(SIZES.format("split")))
        yield _lengths("Length of documents", "bytes", ask, "n_bytes", "documents")
        yield from _rejections(ask)


def examples_parts(dataset: Dataset, inputs: Mapping[str, Dataset]) -> Iterator[Part]:
    """Yield the parts about examples: labels, lengths and rejections."""
    with query_tables(**{name: [dataset.file(f"{name}.parquet")] for name in ("examples", "rejected")}) as ask:
        labels = ask("SELECT label, count(*) FROM examples GROUP BY ALL ORDER BY 2 DESC, 1 LIMIT 20")
        if labels and labels[0][0] is not None:
            bars = [(label, n, f"{n:,}") for label, n in labels]
            yield Part("Examples by label", svg=charts.bars(bars, "examples by label"), columns=("label", "examples"),
                       rows=cells(labels))  # fmt: skip
        yield _lengths("Length of examples", "characters", ask, "length(text)", "examples")
        yield from _rejections(ask)


def _sizes(title: str, what: str, rows: list[tuple[Any, ...]]) -> Part:
    bars = [(str(name), n_bytes, size(n_bytes)) for name, _, n_bytes in rows[:15]]
    note = f"The {len(bars)} largest of {len(rows):,}." if len(rows) > len(bars) else ""
    return Part(title, note, charts.bars(bars, title), (what, "documents", "bytes"), rows[:100])


def _lengths(title: str, unit: str, ask: Ask, length: str, table: str) -> Part:
    """Return a histogram of lengths, whose edges grow by the square root of two."""
    half = f"floor(2 * log2(greatest({length}, 1)))::INT"
    counts: dict[int, int] = dict(ask(f"SELECT {half}, count(*) FROM {table} GROUP BY ALL"))  # noqa: S608 - our own columns
    if not counts:
        return Part(title)
    first, last = min(counts), max(counts)
    edges = [2 ** (half / 2) for half in range(first, last + 2)]
    heights = [counts.get(half, 0) for half in range(first, last + 1)]
    svg = charts.histogram(edges, heights, Axis(unit, log=True), Axis("number"))
    rows = [(f"{edges[i]:,.0f} to {edges[i + 1]:,.0f}", heights[i]) for i in range(len(heights)) if heights[i]]
    return Part(title, svg=svg, columns=(unit, "number"), rows=rows)


def _rejections(ask: Ask) -> Iterator[Part]:
    reasons = ask("SELECT reason, count(*) FROM rejected GROUP BY ALL ORDER BY 2 DESC, 1")
    if not reasons:
        return
    bars = [(reason, n, f"{n:,}") for reason, n in reasons[:15]]
    yield Part("Rejected, by reason", svg=charts.bars(bars, "rejected, by reason"), columns=("reason", "number"),
               rows=reasons)  # fmt: skip
    shown = ask(
        "SELECT reason, source, location, coalesce(text, '') FROM rejected "  # noqa: S608 - a constant
        f"QUALIFY row_number() OVER (PARTITION BY reason ORDER BY source, location) <= {MAX_REJECTED} "
        "ORDER BY count(*) OVER (PARTITION BY reason) DESC, reason LIMIT 60"
    )
    yield Part("Rejected texts", columns=("reason", "source", "where", "text"), rows=cells(shown))
