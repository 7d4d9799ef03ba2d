"""Charts as SVG: lines and points on plain or logarithmic axes, bars, histograms, matrices and labelled clouds.

A chart is a piece of text without script, font or any other file. It follows the reader's choice of light or dark, has
a tooltip on every mark, and is drawn for a card some 400 pixels wide, as on a telephone; a cloud, for one of 1,000.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from pipelines.numbers import short

WIDTH, HEIGHT = 440, 270


LEFT, RIGHT, TOP, BOTTOM = 52, 18, 12, 42  # what the axes take


ROW = 26  # of a bar


MOST = 400  # points of a curve


STYLE = """
.chart { font: 12px system-ui, sans-serif; color-scheme: light dark; color: light-dark(#1d2129, #e6e8ec);
  max-width: 100%; height: auto; --c0: light-dark(#2563d9, #7fabff); --c1: light-dark(#c8590a, #f3a15c);
  --c2: light-dark(#15805a, #56c596); --c3: light-dark(#8443c9, #c49bff); --c4: light-dark(#c2304a, #ff8b9a);
  --c5: light-dark(#697080, #98a0b0); --paper: light-dark(#fff, #191c22); }
.chart text { fill: currentColor; } .chart .soft { opacity: .68; }
.chart .grid { stroke: currentColor; opacity: .12; } .chart .guide { stroke: currentColor; opacity: .45; }
.chart .line { fill: none; stroke-width: 2; stroke-linejoin: round; } .chart .hit { fill: transparent; }
.chart .dashed { stroke-dasharray: 5 4; } .chart .dot { stroke: var(--paper); stroke-width: 1; }
"""


@dataclass(frozen=True)
class Axis:
    """What is measured along an axis; its ends are those of the data unless they are given."""

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points in order of x, drawn as a line, as dots, as both, or dashed."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    drawn: Literal["line", "dots", "both", "dashed"] = "line"
    titles: Sequence[str] = ()


def lines(series: Sequence[Series], x: Axis, y: Axis, diagonal: bool = False) -> str:
    """Curves on common axes. `diagonal`: a line where x is y, for curves that are read against it."""
    series = [_drawable(each, x, y) for each in series]
    series = [each for each in series if len(each.x)]
    if not series:
        return _nothing()
    frame = _Frame(x, y, [v for s in series for v in s.x], [v for s in series for v in s.y])
    drawn = [frame.axes()]
    if diagonal:
        (x1, y1), (x2, y2) = frame.at(frame.x0, frame.x0), frame.at(frame.x1, frame.x1)
        drawn.append(f'<path class="guide dashed" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')
    for number, each in enumerate(series):
        places = [frame.at(a, b) for a, b in zip(each.x, each.y, strict=True)]
        colour = f"var(--c{number % 6})"
        if each.drawn != "dots" and len(places) > 1:
            path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
            dashed = " dashed" if each.drawn == "dashed" else ""
            drawn.append(f'<path class="line{dashed}" stroke="{colour}" d="M{path}"/>')
        for at, (a, b) in enumerate(places):
            title = each.titles[at] if each.titles else f"{x.label} {short(each.x[at])}, {y.label} {short(each.y[at])}"
            visible = each.drawn in ("dots", "both") or len(places) == 1
            style = f'class="dot" r="3.5" fill="{colour}"' if visible else 'class="hit" r="5"'
            named = f"{each.name}: {title}" if len(series) > 1 else title
            drawn.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" {style}><title>{escape(named)}</title></circle>')
    legend, more = _legend([each.name for each in series]) if len(series) > 1 else ("", 0.0)
    named = ", ".join(each.name for each in series)
    return _svg(f"{y.label} by {x.label}: {named}", HEIGHT + more, "".join(drawn) + legend)


def histogram(edges: Sequence[float], counts: Sequence[float], x: Axis, y: Axis) -> str:
    """Counts between edges, one more of these than of those."""
    if not counts:
        return _nothing()
    frame = _Frame(x, Axis(y.label, low=0), edges, [0, *counts])
    drawn = [frame.axes()]
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        (x1, y1), (x2, y2) = frame.at(left, count), frame.at(right, 0)
        title = escape(f"{short(left)} to {short(right)} {x.label}: {count:,.0f}")
        drawn.append(
            f'<rect x="{x1 + 0.5:.1f}" y="{y1:.1f}" width="{max(x2 - x1 - 1, 0.5):.1f}" height="{y2 - y1:.1f}" '
            f'fill="var(--c0)"><title>{title}</title></rect>'
        )
    return _svg(f"{y.label} by {x.label}", HEIGHT, "".join(drawn))


def bars(
    rows: Sequence[tuple[str, float, str]], label: str, ends: Mapping[str, tuple[float, float]] | None = None
) -> str:
    """A bar across for each (name, value, the value as people read it), from the top.

    ends: of an interval around the value, by name; drawn as a line over the end of the bar.
    """
    if not rows:
        return _nothing()
    ends = ends or {}
    longest = max(abs(value) for value in [*(row[1] for row in rows), *(high for _, high in ends.values())]) or 1.0
    name_width, value_width = 150, 82
    room = WIDTH - name_width - value_width
    drawn = []
    for number, (name, value, said) in enumerate(rows):
        y = 4 + number * ROW
        shown = name if len(name) <= 21 else name[:20] + "…"
        length = max(room * abs(value) / longest, 1)
        beyond = max(length, room * ends[name][1] / longest if name in ends else 0)
        drawn.append(
            f"<g><title>{escape(f'{name}: {said}')}</title>"
            f'<text x="{name_width - 8}" y="{y + 16}" text-anchor="end">{escape(shown)}</text>'
            f'<rect x="{name_width}" y="{y + 3}" width="{length:.1f}" height="{ROW - 8}" rx="3" fill="var(--c0)"/>'
            f'<text class="soft" x="{name_width + beyond + 6:.1f}" y="{y + 16}">{escape(said)}</text></g>'
        )
        if name in ends:
            (x1, x2), middle = (name_width + room * max(end, 0) / longest for end in ends[name]), y + ROW / 2 - 1
            drawn.append(
                f'<path class="guide" style="opacity: .8" d="M{x1:.1f} {middle:g}H{x2:.1f}M{x1:.1f} {middle - 4:g}v8'
                f'M{x2:.1f} {middle - 4:g}v8"/>'
            )
    return _svg(label, 8 + len(rows) * ROW, "".join(drawn))


def matrix(labels: Sequence[str], counts: Sequence[Sequence[int]], down: str, across: str) -> str:
    """Counts by two labels, darker where there are more; each row is shaded as a share of its sum."""
    n = len(labels)
    left, top = 130, 40
    cell = min(90, (WIDTH - left - 10) / n)
    drawn = [
        f'<text class="soft" x="{left + n * cell / 2:.1f}" y="14" text-anchor="middle">{escape(across)}</text>',
        f'<text class="soft" x="4" y="{top - 6}">{escape(down)}</text>',
    ]
    for j, label in enumerate(labels):
        x = left + (j + 0.5) * cell
        drawn.append(f'<text x="{x:.1f}" y="{top - 8}" text-anchor="middle">{escape(_cut(label, cell))}</text>')
    for i, (label, row) in enumerate(zip(labels, counts, strict=True)):
        y = top + i * cell
        drawn.append(
            f'<text x="{left - 8}" y="{y + cell / 2 + 4:.1f}" text-anchor="end">{escape(_cut(label, left - 12))}</text>'
        )
        for j, count in enumerate(row):
            share = count / max(sum(row), 1)
            colour = "var(--c2)" if i == j else "var(--c4)"
            x = left + j * cell
            title = escape(f"{label} taken for {labels[j]}: {count:,} ({share:.1%})")
            number = (
                f'<text x="{x + cell / 2:.1f}" y="{y + cell / 2 + 4:.1f}" text-anchor="middle">{count:,}</text>'
                if cell > 26
                else ""
            )
            drawn.append(
                f'<g><title>{title}</title><rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:.1f}" '
                f'height="{cell - 2:.1f}" rx="4" fill="{colour}" fill-opacity="{0.06 + 0.6 * share:.3f}"/>{number}</g>'
            )
    return _svg(f"{down} against {across}", top + n * cell + 8, "".join(drawn))


def cloud(points: Sequence[tuple[float, float, str, str]], named: int, label: str) -> str:
    """Points (x, y, name, tooltip) in the plane; of the first `named` those names are written that have room."""
    if not points:
        return _nothing()
    width, height = 1000, 560
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            14 + (width - 28) * (x - x0) / ((x1 - x0) or 1),
            height - 14 - (height - 28) * (y - y0) / ((y1 - y0) or 1),
        )

    drawn: list[str] = []
    written: list[str] = []
    taken: list[tuple[float, float, float, float]] = []
    for number, (x, y, name, title) in enumerate(points):
        a, b = at(x, y)
        drawn.append(
            f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3" fill="var(--c0)" fill-opacity=".75">'
            f"<title>{escape(title)}</title></circle>"
        )
        box = (a + 4, b - 8, a + 8 + 6.6 * len(name), b + 7)
        free = all(box[2] < t[0] or box[0] > t[2] or box[3] < t[1] or box[1] > t[3] for t in taken)
        if number < named and free and box[2] < width:
            taken.append(box)
            written.append(f'<text x="{a + 5:.1f}" y="{b + 4:.1f}">{escape(name)}</text>')
    return _svg(label, height, "".join(drawn + written), width)


def standalone(svg: str) -> str:
    """A chart as a file of its own, for who shows it as an image."""
    head, _, rest = svg.partition(">")
    paper = '<rect width="100%" height="100%" fill="var(--paper)"/>' if 'class="chart"' in head else ""
    space = "" if "xmlns=" in head else ' xmlns="http://www.w3.org/2000/svg"'
    return f"{head}{space}><style>{STYLE}</style>{paper}{rest}"


class _Frame:
    """Axes, and where a point of the data lies in the picture."""

    def __init__(self, x: Axis, y: Axis, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x, self.y = x, y
        self.x0, self.x1 = _ends(x, xs)
        self.y0, self.y1 = _ends(y, ys, round_up=True)

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = _share(x, self.x0, self.x1, self.x.log)
        up = _share(y, self.y0, self.y1, self.y.log)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> str:
        drawn = []
        for tick in ticks(self.y0, self.y1, self.y.log):
            _, y = self.at(self.x0, tick)
            drawn.append(
                f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
                f'<text class="soft" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
            )
        for tick in ticks(self.x0, self.x1, self.x.log):
            x, _ = self.at(tick, self.y0)
            drawn.append(
                f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
                f'<text class="soft" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(tick)}</text>'
            )
        drawn.append(
            f'<text class="soft" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(self.x.label)}</text>'
            f'<text class="soft" x="{LEFT + 4}" y="{TOP + 10}">{escape(self.y.label)}</text>'
        )
        return "".join(drawn)


def ticks(low: float, high: float, log: bool = False, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`: at most `most` of them, some more on a logarithmic axis of few decades."""
    if log:
        decades = [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
        step = max(1, -(-len(decades) // most))
        few = len(decades) <= 3
        every = [m * d for d in decades for m in (1, 2, 5)] if few else decades[::step]
        return [tick for tick in every if low * 0.999 <= tick <= high * 1.001]
    span = (high - low) or 1.0
    power = math.floor(math.log10(span / most))
    unit = 10.0**power
    step_size = next(unit * m for m in (1, 2, 5, 10) if span / (unit * m) <= most)
    first = math.ceil(low / step_size - 1e-9)
    return [round(i * step_size, 1 - power) for i in range(first, math.floor(high / step_size + 1e-9) + 1)]


def _ends(axis: Axis, values: Iterable[float], round_up: bool = False) -> tuple[float, float]:
    values = list(values)
    low = min(values) if axis.low is None else axis.low
    high = max(values) if axis.high is None else axis.high
    if low >= high:
        half = max(0.5, abs(low) / 10)
        low, high = (low / 2, low * 2) if axis.log and low > 0 else (low - half, low + half)
    elif round_up and not axis.log:
        margin = (high - low) * 0.06
        low = low if axis.low is not None else (0.0 if 0 <= low < (high - low) * 0.3 else low - margin)
        high = high if axis.high is not None else high + 2.5 * margin  # the label stands there
    elif round_up:
        high = high if axis.high is not None else high * (high / low) ** 0.1
    return low, high


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _drawable(series: Series, x: Axis, y: Axis) -> Series:
    """At most some hundred points, none without a place: not finite, or not positive on a logarithmic axis."""
    keep = [
        i
        for i, (a, b) in enumerate(zip(series.x, series.y, strict=True))
        if math.isfinite(a) and math.isfinite(b) and not (x.log and a <= 0) and not (y.log and b <= 0)
    ]
    every = -(-len(keep) // MOST) or 1
    keep = keep[::every] + [i for i in keep[-1:] if (len(keep) - 1) % every]
    titles = [series.titles[i] for i in keep] if series.titles else ()
    return Series(series.name, [series.x[i] for i in keep], [series.y[i] for i in keep], series.drawn, titles)


def _legend(names: Sequence[str]) -> tuple[str, float]:
    """Names in their colours, in rows below the chart, and the height that they add."""
    drawn, x, y = [], 8.0, 0.0
    for number, name in enumerate(names):
        width = 24 + 6.6 * len(name)
        if x + width > WIDTH and x > 8:
            x, y = 8.0, y + 18
        drawn.append(
            f'<circle cx="{x + 5:.1f}" cy="{HEIGHT + y + 6:.1f}" r="5" fill="var(--c{number % 6})"/>'
            f'<text x="{x + 15:.1f}" y="{HEIGHT + y + 10:.1f}">{escape(name)}</text>'
        )
        x += width + 8
    return "".join(drawn), y + 20


def _svg(label: str, height: float, body: str, width: float = WIDTH) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height:g}" '
        f'width="{width}" height="{height:g}">{body}</svg>'
    )


def _nothing() -> str:
    text = f'<text class="soft" x="{WIDTH / 2}" y="40" text-anchor="middle">nothing to draw</text>'
    return _svg("nothing to draw", 70, text)


def _cut(text: str, width: float) -> str:
    most = max(int(width / 6.6), 1)
    return text if len(text) <= most else text[: most - 1] + "…"
