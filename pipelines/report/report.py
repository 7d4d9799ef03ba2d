"""Report: a run's datasets, models and evaluations as one page of HTML to look at.

The page needs nothing but itself: figures are SVG, there is no script, and it asks no host for anything. Beside what
its inputs hold it shows how long they took and, from MLflow, how training went, so that unlike other steps it need not
give the same bytes again.

Output: `report.html`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from pydantic import Field

from gpt.config import Config
from pipelines import numbers
from pipelines.report import charts
from pipelines.report.figures.kinds import parts
from pipelines.report.figures.part import Part, ReadToken, slug
from pipelines.report.graph import chain_to_svg
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.shards import Tokens

FILE = "report.html"


READ = 120  # tokens whose probabilities are shown


class ReportConfig(Config):
    """What the report shows beside what was made."""

    sentence: str | None = Field(
        default=None,
        description="A text to show the model's probabilities of, token by token; by default from a held-out document.",
    )


@dataclass(frozen=True)
class Section:
    """A heading of the page and the cards under it."""

    id: str
    title: str
    parts: list[Part] = field(default_factory=list)
    dataset: str = ""
    note: str = ""


def run(inputs: Mapping[str, Dataset], config: ReportConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Draw the report of some datasets, in the order in which they were made."""
    page, figures = to_html(list(inputs.values()), config, work)
    (out / FILE).write_text(page, encoding="utf-8")
    return {"figures": figures, "bytes": len(page.encode())}


def to_html(datasets: Sequence[Dataset], config: ReportConfig, work: StepContext) -> tuple[str, int]:
    """The page, and how many figures it has."""
    sections = [chain_section(datasets)]
    for at, dataset in enumerate(datasets):
        work.listener.progress(at, len(datasets), "sections")
        section = Section(slug(str(dataset)), title_of(dataset, datasets), dataset=str(dataset), note=note_of(dataset))
        inputs = _inputs(dataset, datasets)
        section.parts.extend(parts(dataset, inputs, work.listener.warn))
        if dataset.manifest.kind == "model" and dataset.manifest.statistics.get("task") == "language":
            section.parts.extend(reading_parts(dataset, inputs.get("tokens"), config))
        if section.parts:
            sections.append(section)
    page = template().render(
        title=f"What {_name(datasets)} made",
        subtitle=_subtitle(datasets),
        tiles=tiles(datasets),
        sections=sections,
        chart_style=charts.STYLE,
        footer="Made by tokenmill from the files of the datasets above and MLflow's record of how they were made.",
    )
    return page, sum(bool(part.svg) for section in sections for part in section.parts)


def _inputs(dataset: Dataset, datasets: Sequence[Dataset]) -> dict[str, Dataset]:
    known = {each.ref: each for each in datasets}
    return {role: known[ref] for role, ref in dataset.manifest.inputs.items() if ref in known}


# Sections

NUMBERS = (
    "documents", "examples", "tokens", "samples", "parameters", "steps", "rejected", "scored_tokens", "scored_examples",
)  # fmt: skip


def chain_section(datasets: Sequence[Dataset]) -> Section:
    """The chain as a graph and as a table."""
    rows = []
    for each in datasets:
        numbers = [
            f"{each.manifest.statistics[n]:,} {n.replace('_', ' ')}" for n in NUMBERS if n in each.manifest.statistics
        ]
        seconds = each.manifest.built.get("seconds", 0.0)
        rows.append((each.manifest.step, str(each), ", ".join(numbers), each.manifest.bytes, round(seconds, 1)))
    graph = Part(
        "What came of what",
        "From source files on the left; each box tells its size and how long it took to make.",
        chain_to_svg(datasets),
        ("step", "result", "holds", "bytes", "seconds"),
        rows,
        wide=True,
    )
    return Section("chain", "The chain", [graph])


def title_of(dataset: Dataset, datasets: Sequence[Dataset]) -> str:
    """What a section is called: with the dataset's name only where there are several of its kind."""
    statistics, kind, name = dataset.manifest.statistics, dataset.manifest.kind, dataset.manifest.name
    match kind, statistics.get("task"):
        case "model", "language":
            title = "Pretraining"
        case "model", task:
            title = "Fine-tuning"
        case "evaluation", task:
            judged = {"language": "Language model", "classification": "Classifier", "instruction": "Assistant"}
            title = f"{judged.get(str(task), 'Task')}, judged"
        case _:
            title = kind.capitalize()
    several = sum(title == _plain_title(each) for each in datasets) > 1
    return f"{title}: {name}" if several or title == "Fine-tuning" else title


def _plain_title(dataset: Dataset) -> str:
    return title_of(dataset, ())


def note_of(dataset: Dataset) -> str:
    statistics = dataset.manifest.statistics
    return ", ".join(f"{statistics[name]:,} {name.replace('_', ' ')}" for name in NUMBERS if name in statistics)


TILES = (
    ("corpus", "documents", "documents", "{:,.0f}"),
    ("tokens", "tokens", "tokens", "short"),
    ("model", "parameters", "parameters", "short"),
    ("evaluation", "test/bits_per_byte", "bits per byte", "{:.3f}"),
    ("evaluation", "classify/accuracy", "accuracy", "{:.3f}"),
    ("evaluation", "classify/f1", "F1", "{:.3f}"),
    ("evaluation", "instruct/chrf", "chrF", "{:.1f}"),
)


def tiles(datasets: Sequence[Dataset]) -> list[tuple[str, str]]:
    """The numbers that a person wants first: (value, what it is)."""
    found = []
    for kind, key, what, form in TILES:
        for dataset in datasets:
            value = dataset.manifest.statistics.get(key)
            if dataset.manifest.kind == kind and isinstance(value, int | float) and math.isfinite(value):
                said = numbers.short(value) if form == "short" else form.format(value)
                found.append((said, f"{what}, {dataset.manifest.name}" if kind == "evaluation" else what))
                if kind != "evaluation":
                    break
    seconds = sum(dataset.manifest.built.get("seconds", 0.0) for dataset in datasets)
    return [*found, (_duration(seconds), "to make it all")]


def reading_parts(dataset: Dataset, tokens: Dataset | None, config: ReportConfig) -> Iterator[Part]:
    """A text token by token, with the probability that the model gave to each."""
    import torch

    from pipelines.models.language_model import open_gpt

    model = open_gpt(dataset.path)
    ids, whence = _text_to_read(tokens, config, model.encode)
    ids = ids[: min(READ, model.gpt.config.context - 1)]
    if not ids:
        return
    where = next(model.gpt.parameters()).device
    with torch.inference_mode():
        context = torch.tensor([[model.tokenizer.end_of_text, *ids[:-1]]], device=where)  # (1, T)
        logits = model.gpt(context)[0].float().log_softmax(-1)  # (T, V)
    pieces = model.tokenizer.token_bytes
    read, rows, total = [], [], 0.0
    for token, row in zip(ids, logits, strict=True):
        bits = -float(row[token]) / math.log(2)
        total += bits
        rank = int((row > row[token]).sum()) + 1
        best = [
            (pieces[i].decode("utf-8", "replace"), math.exp(float(row[i])))
            for i in row.topk(min(3, len(row))).indices.tolist()
        ]
        text = pieces[token].decode("utf-8", "replace")
        expected = ", ".join(f"{each!r} {p:.0%}" for each, p in best)
        title = f"{text!r}: probability {2**-bits:.2%}, {bits:.1f} bits, rank {rank:,}\nexpected {expected}"
        read.append(ReadToken(text, min(round(100 * bits / 12), 100), title))
        rows.append((repr(text), f"{2**-bits:.2%}", round(bits, 2), rank, expected))
    yield Part(
        "How it reads",
        f"Each token of {whence}, coloured by how little the model foresaw it: {total / len(ids):.2f} bits a token. "
        "Point at one to see what was expected in its place.",
        columns=("token", "probability", "bits", "rank", "expected"),
        rows=rows,
        tokens=read,
    )


def _text_to_read(
    tokens: Dataset | None, config: ReportConfig, encode: Callable[[str], list[int]]
) -> tuple[list[int], str]:
    """Ids of the text that the report reads with the model, and where they are from."""
    if config.sentence:
        return encode(config.sentence), "the text that the config gives"
    for split in ("test", "validation", "train") if tokens else ():
        assert tokens
        for stream in Tokens(tokens).streams(split):
            if len(stream) > 1:
                ids = [int(i) for i in stream[: READ + 1]]
                end = Tokens(tokens).tokenizer.end_of_text
                first = ids[: ids.index(end)] if end in ids[8:] else ids
                return first, f"the beginning of a document of the {split} split"
    return [], ""


# The page


@lru_cache(maxsize=1)
def template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.globals.update(numeric=_numeric, shown=_shown)
    return environment.from_string((Path(__file__).with_name(FILE)).read_text(encoding="utf-8"))


def _numeric(rows: Sequence[Sequence[Any]]) -> set[int]:
    """Which columns hold numbers only."""
    width = len(rows[0]) if rows else 0
    return {i for i in range(width) if all(isinstance(row[i], int | float | None) for row in rows)}


def _shown(cell: Any) -> str:
    if cell is None:
        return ""
    return f"{cell:,}" if isinstance(cell, int | float) and not isinstance(cell, bool) else str(cell)


def _name(datasets: Sequence[Dataset]) -> str:
    models = [each.manifest.name for each in datasets if each.manifest.kind == "model"]
    return models[0] if models else datasets[-1].manifest.name


def _subtitle(datasets: Sequence[Dataset]) -> str:
    times = sorted(each.manifest.built["at"] for each in datasets)
    first, last = (datetime.fromisoformat(at) for at in (times[0], times[-1]))
    n_bytes = sum(each.manifest.bytes for each in datasets)
    days = f"{first:%Y-%m-%d %H:%M}" + (
        f" to {last:%Y-%m-%d %H:%M}" if last.date() != first.date() else f" to {last:%H:%M}"
    )
    return f"{len(datasets)} datasets and models, {numbers.short(n_bytes)}B, made {days} UTC"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _headline(s: Mapping[str, Any]) -> str:
    return f"{s['figures']} figures on one page"


REPORT = StepType(
    "report",
    kind="report",
    version=1,
    config=ReportConfig,
    run=run,
    packages=("pipelines.report",),
    headline=_headline,
)
