"""Report: a run's datasets, models and evaluations as one page of HTML.

The page needs no other file: figures are SVG, there is no script, and no host is asked for anything. Besides the
content of its inputs it shows how long they took and, from MLflow, the curves of training. So, unlike other steps, it
may give other bytes when it is run again.

Output: `report.html`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt.config import Config
from pipelines import numbers
from pipelines.report import charts
from pipelines.report.figures.kinds import parts
from pipelines.report.figures.part import Part, slug
from pipelines.report.figures.reading import reading_parts
from pipelines.report.graph import chain_to_svg
from pipelines.report.page import render
from pipelines.store.dataset import Dataset
from pipelines.store.kinds import KINDS, kind_of
from pipelines.store.step import StepContext, StepType

FILE = "report.html"


class ReportConfig(Config):
    """What the report shows besides the datasets."""

    sentence: str | None = None
    """A text to show the model's probabilities of, token by token; by default from a held-out document."""


@dataclass(frozen=True)
class Section:
    """A heading of the page and the cards below it."""

    id: str
    title: str
    parts: list[Part] = field(default_factory=list)
    dataset: str = ""
    note: str = ""


def run(inputs: Mapping[str, Dataset], config: ReportConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Draw the report about some datasets, in the order in which they were made."""
    page, figures = to_html(list(inputs.values()), config, work)
    (out / FILE).write_text(page, encoding="utf-8")
    return {"figures": figures, "bytes": len(page.encode())}


def to_html(datasets: Sequence[Dataset], config: ReportConfig, work: StepContext) -> tuple[str, int]:
    """Return the page and its number of figures."""
    sections, known = [chain_section(datasets)], {each.ref: each for each in datasets}
    for at, dataset in enumerate(datasets):
        work.listener.progress(at, len(datasets), "sections")
        section = Section(slug(str(dataset)), title_of(dataset, datasets), dataset=str(dataset), note=note_of(dataset))
        inputs = {role: known[ref] for role, ref in dataset.manifest.inputs.items() if ref in known}
        section.parts.extend(parts(dataset, inputs, work.listener.warn))
        if dataset.manifest.kind == "model" and dataset.manifest.statistics.get("task") == "language":
            section.parts.extend(reading_parts(dataset, inputs.get("tokens"), config.sentence))
        if section.parts:
            sections.append(section)
    page = render(
        FILE,
        title=f"What {_name(datasets)} made",
        subtitle=_subtitle(datasets),
        tiles=tiles(datasets),
        sections=sections,
        chart_style=charts.STYLE,
        footer="Made by tokenmill from the files of the datasets above and MLflow's record of how they were made.",
    )
    return page, sum(bool(part.svg) for section in sections for part in section.parts)


# Sections


def chain_section(datasets: Sequence[Dataset]) -> Section:
    """Return the section that shows the chain as a graph and as a table."""
    rows = [
        (m.step, str(each), note_of(each), m.bytes, round(m.built.get("seconds", 0.0), 1))
        for each in datasets
        for m in [each.manifest]
    ]
    graph = Part(
        "From sources to models",
        "From source files on the left; each box shows its size and how long it took to make.",
        chain_to_svg(datasets),
        ("step", "result", "holds", "bytes", "seconds"),
        rows,
        wide=True,
    )
    return Section("chain", "The chain", [graph])


def title_of(dataset: Dataset, datasets: Sequence[Dataset]) -> str:
    """Return a section's title: with the dataset's name only where several titles would be equal."""
    title = _plain_title(dataset)
    several = sum(title == _plain_title(each) for each in datasets) > 1
    return f"{title}: {dataset.manifest.name}" if several or title == "Fine-tuning" else title


def _plain_title(dataset: Dataset) -> str:
    kind = kind_of(dataset.manifest.kind)
    task = dataset.manifest.statistics.get("task", "")
    return kind.titles.get(task) or kind.titles.get("", kind.name.capitalize())


def note_of(dataset: Dataset) -> str:
    """Return the numbers of a dataset that a person wants first."""
    kind, statistics = kind_of(dataset.manifest.kind), dataset.manifest.statistics
    names = [name for name in (*kind.counts, *kind.details) if name in statistics]
    return ", ".join(f"{statistics[name]:,} {name.replace('_', ' ')}" for name in names)


def tiles(datasets: Sequence[Dataset]) -> list[tuple[str, str]]:
    """Return the tiles at the top of the page: (value, what it is)."""
    found = []
    for kind in KINDS.values():
        of_kind = [dataset.manifest for dataset in datasets if dataset.manifest.kind == kind.name]
        for tile in kind.tiles:
            values = [(each.name, each.statistics.get(tile.statistic)) for each in of_kind]
            known = [(name, v) for name, v in values if isinstance(v, int | float) and math.isfinite(v)]
            for name, value in known if kind.labelled_tiles else known[:1]:
                found.append((tile.form(value), f"{tile.label}, {name}" if kind.labelled_tiles else tile.label))
    seconds = sum(dataset.manifest.built.get("seconds", 0.0) for dataset in datasets)
    return [*found, (numbers.duration(seconds), "to make it all")]


# The page


def _name(datasets: Sequence[Dataset]) -> str:
    models = [each.manifest.name for each in datasets if each.manifest.kind == "model"]
    return models[0] if models else datasets[-1].manifest.name


def _subtitle(datasets: Sequence[Dataset]) -> str:
    times = [each.manifest.built_at for each in datasets]
    first, last = min(times), max(times)
    until = f"{last:%H:%M}" if last.date() == first.date() else f"{last:%Y-%m-%d %H:%M}"
    size = numbers.size(sum(each.manifest.bytes for each in datasets))
    return f"{len(datasets)} datasets and models, {size}, made {first:%Y-%m-%d %H:%M} to {until} UTC"


def _headline(s: Mapping[str, Any]) -> str:
    return f"{s['figures']} figures on one page"


REPORT = StepType(
    "report", kind="report", version=1, config=ReportConfig, run=run, packages=("pipelines.report",), headline=_headline
)
