"""The lineage of a dataset or model as a graph: an SVG, from source files on the left to evaluations on the right.

It needs no script and no other file, and follows the reader's choice of light or dark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.numbers import short, size
from pipelines.store import lineage
from pipelines.store.dataset import Dataset
from pipelines.store.kinds import kind_of
from pipelines.visible import in_html

WIDTH, HEIGHT, GAP, RISE = 244, 62, 56, 18  # of a box, and between columns and rows


STYLE = """
.lineage { font: 12px system-ui, sans-serif; color: light-dark(#1b1b1b, #eee); color-scheme: light dark; }
.lineage rect { fill: light-dark(#fff, #1d1f23); stroke-width: 1.5; }
.lineage .this rect { stroke-width: 3.5; }
.lineage text { fill: currentColor; } .lineage .name { font-weight: 600; } .lineage .more { opacity: .65; }
.lineage path { fill: none; stroke: currentColor; opacity: .35; stroke-width: 1.5; }
"""


@dataclass(frozen=True)
class Box:
    """A node of the graph: its name, two lines about it, and a longer text for its tooltip."""

    name: str
    kind: str
    lines: tuple[str, str]
    title: str


def to_svg(dataset: Dataset, datasets: Sequence[Dataset]) -> str:
    """Draw a dataset with everything that it was made from and everything made from it, as an SVG element."""
    near = {
        name: (node.kind, node.dataset)
        for name, node in lineage.relatives(dataset, datasets).items()
        if node.kind != "source"
    }
    return _draw(near, f"Lineage of {dataset}", str(dataset))


def chain_to_svg(datasets: Sequence[Dataset]) -> str:
    """Draw which of some datasets were made from which, as an SVG element."""
    return _draw({str(each): (each.manifest.kind, each) for each in datasets}, "From sources to models")


def _draw(nodes: Mapping[str, tuple[str, Dataset | None]], label: str, chosen: str = "") -> str:
    boxes, arrows = _graph(nodes)
    columns, arrows = _layout(boxes, arrows)
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
        f'<svg class="lineage" role="img" aria-label="{in_html(label)}" '
        f'viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}" xmlns="http://www.w3.org/2000/svg">'
        f"<style>{STYLE}</style>{''.join(drawn)}</svg>"
    )


def _graph(nodes: Mapping[str, tuple[str, Dataset | None]]) -> tuple[dict[str, Box], list[tuple[str, str]]]:
    """Return the boxes of datasets and of their source files, and an arrow for every direct input."""
    boxes = {name: _describe(name, kind, dataset) for name, (kind, dataset) in nodes.items()}
    arrows = []
    for name, (_, dataset) in nodes.items():
        if not dataset:
            continue
        if files := dataset.manifest.sources:
            box = f"files of {name}"
            called = files[0].name if len(files) == 1 else f"{len(files):,} files"
            title = "\n".join(file.name for file in files[:50])
            boxes[box] = Box(called, "source", ("source", size(sum(file.bytes for file in files))), title)
            arrows.append((box, name))
        arrows += [(edge.input, edge.output) for edge in lineage.direct_edges(dataset) if edge.input in boxes]
    return boxes, arrows


def _layout(
    names: Mapping[str, Box], arrows: Sequence[tuple[str, str]]
) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """Return names by column, each to the right of its inputs and near their height, and the arrows to draw.

    An arrow is left out if a path of other arrows leads from its start to its end.
    """
    import networkx  # takes a second to import, and few commands draw a graph

    graph = networkx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(arrows)
    reduced = networkx.transitive_reduction(graph)
    order = {name: number for number, name in enumerate(names)}
    columns: list[list[str]] = []
    height: dict[str, float] = {}
    for generation in networkx.topological_generations(reduced):
        inputs = {name: [height[each] for each in reduced.predecessors(name)] for name in generation}
        column = sorted(generation, key=lambda name: (sum(inputs[name]) / max(len(inputs[name]), 1), order[name]))
        height |= {name: y - len(column) / 2 for y, name in enumerate(column)}
        columns.append(column)
    return columns, list(reduced.edges)


def _describe(name: str, kind: str, dataset: Dataset | None) -> Box:
    plain_name, _, digits = name.partition("/")[2].rpartition("@")
    version = f"{kind}@{digits}"
    if not dataset:
        return Box(plain_name, kind, (version, "no longer in the store"), name)
    manifest = dataset.manifest
    counts = {key: manifest.statistics[key] for key in kind_of(kind).counts if manifest.statistics.get(key)}
    seconds = f"{manifest.built.get('seconds', 0):,.1f} s"
    first = [f"{short(value)} {key}" for key, value in counts.items()][:1]
    facts = " · ".join([*first, size(manifest.bytes), seconds])
    exact = [f"{value:,} {key}" for key, value in counts.items()]
    title = "\n".join([name, *exact, f"{manifest.step}, {seconds}", f"sha256 {manifest.digest}"])
    return Box(plain_name, kind, (version, facts), title)


def _box(box: Box, x: float, y: float, chosen: bool) -> str:
    name = box.name if len(box.name) <= 28 else box.name[:27] + "…"
    return (
        f'<g class="{"this" if chosen else "that"}" transform="translate({x:g} {y:g})">'
        f"<title>{in_html(box.title)}</title>"
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" stroke="{kind_of(box.kind).colour.css}"/>'
        f'<text class="name" x="12" y="21">{in_html(name)}</text>'
        f'<text x="12" y="37">{in_html(box.lines[0])}</text>'
        f'<text class="more" x="12" y="53">{in_html(box.lines[1])}</text></g>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + HEIGHT / 2, end[0], end[1] + HEIGHT / 2
    bend = GAP / 2
    return f'<path d="M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"/>'
