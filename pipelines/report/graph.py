"""The lineage of a dataset or model as a graph: an SVG for reports, from source files on the left to evaluations on the
right. It needs no script and no other file, and follows the reader's choice of light or dark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape

from pipelines.store import lineage
from pipelines.store.dataset import Dataset

WIDTH, HEIGHT, GAP, RISE = 244, 62, 56, 18  # of a box, and between columns and rows


COLOURS = {
    "source": "#7a7a7a",
    "corpus": "#b8860b",
    "examples": "#b8860b",
    "lessons": "#1a8a9a",
    "tokens": "#1a8a9a",
    "samples": "#3a6fd8",
    "model": "#2e8b57",
    "evaluation": "#a8449c",
    "report": "#7a7a7a",
}


STYLE = """
.lineage { font: 12px system-ui, sans-serif; color: light-dark(#1b1b1b, #eee); color-scheme: light dark; }
.lineage rect { fill: light-dark(#fff, #1d1f23); stroke-width: 1.5; }
.lineage .this rect { stroke-width: 3.5; }
.lineage text { fill: currentColor; } .lineage .name { font-weight: 600; } .lineage .more { opacity: .65; }
.lineage path { fill: none; stroke: currentColor; opacity: .35; stroke-width: 1.5; }
"""


@dataclass(frozen=True)
class Box:
    """A node of the graph: what it is called, two lines about it, and all about it for whoever points at it."""

    name: str
    kind: str
    lines: tuple[str, str]
    title: str


def to_svg(dataset: Dataset, datasets: Sequence[Dataset]) -> str:
    """Everything that a dataset came from and everything that came of it, as an SVG element."""
    trees = (
        lineage.origins(dataset, datasets),
        lineage.outcomes(str(dataset), dataset.manifest.kind, datasets),
    )
    near = {
        node.name: (node.kind, node.dataset)
        for tree in trees
        for node in tree.nodes()
        if node.kind not in ("source", "report") or node.name == str(dataset)
    }
    return _draw(near, f"Lineage of {dataset}", str(dataset))


def chain_to_svg(datasets: Sequence[Dataset]) -> str:
    """How some datasets came of one another, as an SVG element."""
    return _draw({str(each): (each.manifest.kind, each) for each in datasets}, "What came of what")


def _draw(nodes: Mapping[str, tuple[str, Dataset | None]], label: str, chosen: str = "") -> str:
    boxes, arrows = _graph(nodes)
    columns = _columns(boxes, arrows)
    tallest = max(len(column) for column in columns)
    place = {
        name: (8 + x * (WIDTH + GAP), 8 + (y + (tallest - len(column)) / 2) * (HEIGHT + RISE))
        for x, column in enumerate(columns)
        for y, name in enumerate(column)
    }
    width, height = len(columns) * (WIDTH + GAP) - GAP + 16, tallest * (HEIGHT + RISE) - RISE + 16
    drawn = [_arrow(place[start], place[end]) for start, end in arrows]
    drawn += [_box(box, *place[name], name == chosen) for name, box in boxes.items()]
    return (
        f'<svg class="lineage" role="img" aria-label="{escape(label)}" '
        f'viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}" xmlns="http://www.w3.org/2000/svg">'
        f"<style>{STYLE}</style>{''.join(drawn)}</svg>"
    )


def _graph(nodes: Mapping[str, tuple[str, Dataset | None]]) -> tuple[dict[str, Box], list[tuple[str, str]]]:
    """Boxes of datasets and of what they were read from, and an arrow for each that went into another, unless a longer
    way says so already."""
    boxes = {name: _describe(name, kind, dataset) for name, (kind, dataset) in nodes.items()}
    arrows: dict[tuple[str, str], None] = {}
    for name, (_, dataset) in nodes.items():
        if not dataset:
            continue
        files = dataset.manifest.sources
        if files:
            box = f"files of {name}"
            boxes[box] = _describe_files([file.name for file in files], sum(file.bytes for file in files), box)
            arrows[box, name] = None
        for edge in lineage.direct_edges(dataset):
            if edge.input in boxes:
                arrows[edge.input, edge.output] = None
    return boxes, _without_shortcuts(list(arrows))


def _without_shortcuts(arrows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    after: dict[str, list[str]] = defaultdict(list)
    for start, end in arrows:
        after[start].append(end)

    @cache
    def behind(name: str) -> frozenset[str]:
        return frozenset(after.get(name, ())).union(*(behind(each) for each in after.get(name, ())))

    return [(start, end) for start, end in arrows if not any(end in behind(each) for each in after[start])]


def _columns(boxes: dict[str, Box], arrows: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Names by column: each stands right of all that went into it, and near them in height."""
    into: dict[str, list[str]] = defaultdict(list)
    for start, end in arrows:
        into[end].append(start)
    depth: dict[str, int] = {}

    def deep(name: str) -> int:
        if name not in depth:
            depth[name] = max((deep(each) + 1 for each in into[name]), default=0)
        return depth[name]

    columns: list[list[str]] = [[] for _ in range(max(map(deep, boxes), default=0) + 1)]
    for name in boxes:
        columns[depth[name]].append(name)
    height: dict[str, float] = {}
    for column in columns:
        column.sort(key=lambda name: sum(height[each] for each in into[name]) / max(len(into[name]), 1))
        height |= {name: y - len(column) / 2 for y, name in enumerate(column)}
    return columns


def _describe(name: str, kind: str, dataset: Dataset | None) -> Box:
    called, _, digits = name.partition("/")[2].rpartition("@")
    if not dataset:
        return Box(called, kind, (f"{kind}@{digits}", "no longer in the store"), name)
    statistics = dataset.manifest.statistics
    counts = [f"{statistics[key]:,} {key}" for key in COUNTS if statistics.get(key)]
    seconds = dataset.manifest.built.get("seconds", 0)
    first = [f"{_short(statistics[key])} {key}" for key in COUNTS if statistics.get(key)][:1]
    facts = [*first, _size(dataset.manifest.bytes), f"{seconds:,.1f} s"]
    title = "\n".join(
        [name, *counts, f"{dataset.manifest.step}, {seconds:,.1f} s", f"sha256 {dataset.manifest.digest}"]
    )
    return Box(called, kind, (f"{kind}@{digits}", " · ".join(facts)), title)


COUNTS = ("parameters", "samples", "tokens", "examples", "documents")


def _describe_files(names: Sequence[str], n_bytes: int, box: str) -> Box:
    called = names[0] if len(names) == 1 else f"{len(names):,} files"
    return Box(called, "source", ("source", _size(n_bytes)), "\n".join(names[:50]))


def _size(n_bytes: float) -> str:
    return _short(n_bytes, (" B", " KB", " MB", " GB"))


def _short(number: float, units: tuple[str, ...] = ("", "K", "M", "B")) -> str:
    power = min(len(f"{int(number)}") - 1, 3 * len(units) - 1) // 3
    return f"{number / 1000**power:.{1 if power else 0}f}{units[power]}"


def _box(box: Box, x: float, y: float, chosen: bool) -> str:
    name = box.name if len(box.name) <= 28 else box.name[:27] + "…"
    return (
        f'<g class="{"this" if chosen else "that"}" transform="translate({x:g} {y:g})">'
        f"<title>{escape(box.title)}</title>"
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" stroke="{COLOURS.get(box.kind, "#7a7a7a")}"/>'
        f'<text class="name" x="12" y="21">{escape(name)}</text>'
        f'<text x="12" y="37">{escape(box.lines[0])}</text>'
        f'<text class="more" x="12" y="53">{escape(box.lines[1])}</text></g>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + HEIGHT / 2, end[0], end[1] + HEIGHT / 2
    bend = GAP / 2
    return f'<path d="M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"/>'
