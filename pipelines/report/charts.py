"""Charts as SVG: lines and points on plain or logarithmic axes, bars, histograms, matrices and labelled clouds.

A chart is a text that needs no script, font or other file. It follows the reader's choice of light or dark and has a
tooltip on every mark. It fits a card some 400 pixels wide, as on a telephone; a cloud fits one of 1,000 pixels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipelines.numbers import short
from pipelines.visible import in_html

WIDTH, HEIGHT = 440, 270


LEFT, RIGHT, TOP, BOTTOM = 52, 18, 12, 42  # margins for the axes


ROW = 26  # height of a bar and its space


LETTER = 6.6  # width, on average


MAX_POINTS = 400  # of a curve


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
    """An axis and its label; its ends are those of the data by default."""

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None


Drawn = Literal["line", "both", "dashed"]


@dataclass(frozen=True)
class Series:
    """Points in order of x, drawn as a line, as a line with dots, or dashed."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    drawn: Drawn = "line"
    titles: Sequence[str] = ()


def lines(series: Sequence[Series], x: Axis, y: Axis, diagonal: bool = False) -> str:
    """Draw curves on common axes. `diagonal` adds the line where x equals y, as a reference."""
    series = [each for each in (_drawable(one, x, y) for one in series) if len(each.x)]
    if not series:
        return _empty_chart()
    frame = _Frame(x, y, [v for s in series for v in s.x], [v for s in series for v in s.y])
    drawn = [frame.axes()]
    if diagonal:
        (x1, y1), (x2, y2) = frame.at(frame.x0, frame.x0), frame.at(frame.x1, frame.x1)
        drawn.append(f'<path class="guide dashed" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')
    for number, each in enumerate(series):
        places = [frame.at(a, b) for a, b in zip(each.x, each.y, strict=True)]
        colour = f"var(--c{number % 6})"
        if len(places) > 1:
            path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
            dashed = " dashed" if each.drawn == "dashed" else ""
            drawn.append(f'<path class="line{dashed}" stroke="{colour}" d="M{path}"/>')
        visible = each.drawn == "both" or len(places) == 1
        style = f'class="dot" r="3.5" fill="{colour}"' if visible else 'class="hit" r="5"'
        prefix = f"{each.name}: " if len(series) > 1 else ""
        for at, (a, b) in enumerate(places):
            title = each.titles[at] if each.titles else f"{x.label} {short(each.x[at])}, {y.label} {short(each.y[at])}"
            drawn.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" {style}>{_tooltip(prefix + title)}</circle>')
    names = [each.name for each in series]
    legend, more = _legend(names) if len(series) > 1 else ("", 0.0)
    return _svg(f"{y.label} by {x.label}: {', '.join(names)}", HEIGHT + more, "".join(drawn) + legend)


def histogram(edges: Sequence[float], counts: Sequence[float], x: Axis, y: Axis) -> str:
    """Draw counts between edges; there is one more edge than there are counts."""
    frame = _Frame(x, Axis(y.label, low=0), edges, [0, *counts])
    drawn = [frame.axes()]
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        (x1, y1), (x2, y2) = frame.at(left, count), frame.at(right, 0)
        drawn.append(
            f'<rect x="{x1 + 0.5:.1f}" y="{y1:.1f}" width="{max(x2 - x1 - 1, 0.5):.1f}" height="{y2 - y1:.1f}" '
            f'fill="var(--c0)">{_tooltip(f"{short(left)} to {short(right)} {x.label}: {count:,.0f}")}</rect>'
        )
    return _svg(f"{y.label} by {x.label}", HEIGHT, "".join(drawn))


def bars(
    rows: Sequence[tuple[str, float, str]], label: str, ends: Mapping[str, tuple[float, float]] | None = None
) -> str:
    """Draw a horizontal bar for each (name, value, the value as text), from the top.

    ends: the interval around a value, by name; drawn as a line over the end of the bar.
    """
    if not rows:
        return _empty_chart()
    ends = ends or {}
    longest = max(abs(value) for value in [*(row[1] for row in rows), *(high for _, high in ends.values())]) or 1.0
    left, room = 150, WIDTH - 150 - 82  # names to the left, values to the right
    drawn = []
    for number, (name, value, text) in enumerate(rows):
        y = 4 + number * ROW
        length = max(room * abs(value) / longest, 1)
        low, high = (room * max(end, 0) / longest for end in ends.get(name, (0, 0)))
        drawn.append(
            f"<g>{_tooltip(f'{name}: {text}')}{_text(left - 8, y + 16, _cut(name, 140), 'end')}"
            f'<rect x="{left}" y="{y + 3}" width="{length:.1f}" height="{ROW - 8}" rx="3" fill="var(--c0)"/>'
            f"{_text(left + max(length, high) + 6, y + 16, text, style='soft')}</g>"
        )
        if name in ends:
            x1, x2, middle = left + low, left + high, y + ROW / 2 - 1
            drawn.append(
                f'<path class="guide" style="opacity: .8" d="M{x1:.1f} {middle:g}H{x2:.1f}M{x1:.1f} {middle - 4:g}v8'
                f'M{x2:.1f} {middle - 4:g}v8"/>'
            )
    return _svg(label, 8 + len(rows) * ROW, "".join(drawn))


def matrix(labels: Sequence[str], counts: Sequence[Sequence[int]], down: str, across: str) -> str:
    """Draw counts by two labels, larger counts darker; a count is shaded by its share of its row."""
    n, left, top = len(labels), 130, 40
    cell = min(90, (WIDTH - left - 10) / n)
    drawn = [
        _text(left + n * cell / 2, 14, across, "middle", "soft"),
        _text(4, top - 6, down, style="soft"),
        *(_text(left + (j + 0.5) * cell, top - 8, _cut(label, cell), "middle") for j, label in enumerate(labels)),
    ]
    for i, (label, row) in enumerate(zip(labels, counts, strict=True)):
        y = top + i * cell
        drawn.append(_text(left - 8, y + cell / 2 + 4, _cut(label, left - 12), "end"))
        for j, count in enumerate(row):
            x, share = left + j * cell, count / max(sum(row), 1)
            number = _text(x + cell / 2, y + cell / 2 + 4, f"{count:,}", "middle") if cell > 26 else ""
            drawn.append(
                f"<g>{_tooltip(f'{label} taken for {labels[j]}: {count:,} ({share:.1%})')}"
                f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:.1f}" height="{cell - 2:.1f}" rx="4" '
                f'fill="var(--c{2 if i == j else 4})" fill-opacity="{0.06 + 0.6 * share:.3f}"/>{number}</g>'
            )
    return _svg(f"{down} against {across}", top + n * cell + 8, "".join(drawn))


def cloud(points: Sequence[tuple[float, float, str, str]], named: int, label: str) -> str:
    """Draw points (x, y, name, tooltip) in the plane, with the names of the first `named` where there is room."""
    width, height, margin = 1000, 560, 14
    x0, x1 = _ends(Axis(""), [x for x, *_ in points])
    y0, y1 = _ends(Axis(""), [y for _, y, *_ in points])
    dots: list[str] = []
    names: list[str] = []
    taken: list[tuple[float, float, float, float]] = []
    for number, (x, y, name, title) in enumerate(points):
        a = margin + (width - 2 * margin) * (x - x0) / (x1 - x0)
        b = height - margin - (height - 2 * margin) * (y - y0) / (y1 - y0)
        dots.append(
            f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3" fill="var(--c0)" fill-opacity=".75">'
            f"{_tooltip(title)}</circle>"
        )
        box = (a + 4, b - 8, a + 8 + LETTER * len(name), b + 7)
        free = all(box[2] < t[0] or box[0] > t[2] or box[3] < t[1] or box[1] > t[3] for t in taken)
        if number < named and free and box[2] < width:
            taken.append(box)
            names.append(_text(a + 5, b + 4, name))
    return _svg(label, height, "".join(dots + names), width)


def standalone(svg: str) -> str:
    """Return a chart as a file of its own, which can be shown as an image."""
    head, _, rest = svg.partition(">")
    paper = '<rect width="100%" height="100%" fill="var(--paper)"/>' if 'class="chart"' in head else ""
    space = "" if "xmlns=" in head else ' xmlns="http://www.w3.org/2000/svg"'
    return f"{head}{space}><style>{STYLE}</style>{paper}{rest}"


class _Frame:
    """Axes, and the place of a point of the data in the picture."""

    def __init__(self, x: Axis, y: Axis, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x, self.y = x, y
        self.x0, self.x1 = _ends(x, xs)
        self.y0, self.y1 = _ends(y, ys, round_up=True)

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = _share(x, self.x0, self.x1, self.x.log)
        up = _share(y, self.y0, self.y1, self.y.log)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> str:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        drawn = []
        for tick in ticks(self.y0, self.y1, self.y.log):
            _, y = self.at(self.x0, tick)
            drawn.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
            drawn.append(_text(LEFT - 6, y + 4, short(tick), "end", "soft"))
        for tick in ticks(self.x0, self.x1, self.x.log):
            x, _ = self.at(tick, self.y0)
            drawn.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
            drawn.append(_text(x, bottom + 16, short(tick), "middle", "soft"))
        drawn.append(_text(right, HEIGHT - 8, self.x.label, "end", "soft"))
        drawn.append(_text(LEFT + 4, TOP + 10, self.y.label, style="soft"))
        return "".join(drawn)


def ticks(low: float, high: float, log: bool = False, most: int = 6) -> list[float]:
    """Return round numbers from `low` to `high`: at most `most`, or more on a logarithmic axis of few decades."""
    if log:
        decades = [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
        every = -(-len(decades) // most)
        found = [m * d for d in decades for m in (1, 2, 5)] if len(decades) <= 3 else decades[::every]
        return [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
    span = (high - low) or 1.0
    power = math.floor(math.log10(span / most))
    unit = 10.0**power
    step = next(unit * m for m in (1, 2, 5, 10) if span / (unit * m) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 1 - power) for i in range(first, last + 1)]


def _ends(axis: Axis, values: Sequence[float], round_up: bool = False) -> tuple[float, float]:
    low = min(values) if axis.low is None else axis.low
    high = max(values) if axis.high is None else axis.high
    if low >= high:
        half = max(0.5, abs(low) / 10)
        low, high = (low / 2, low * 2) if axis.log and low > 0 else (low - half, low + half)
    elif round_up and not axis.log:
        margin = (high - low) * 0.06
        low = low if axis.low is not None else (0.0 if 0 <= low < (high - low) * 0.3 else low - margin)
        high = high if axis.high is not None else high + 2.5 * margin  # room for the label
    elif round_up:
        high = high if axis.high is not None else high * (high / low) ** 0.1
    return low, high


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _drawable(series: Series, x: Axis, y: Axis) -> Series:
    """Return a few hundred points of a series that have a place: finite, and positive on a logarithmic axis."""
    xs, ys = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
    has_place = np.isfinite(xs) & np.isfinite(ys) & ((xs > 0) | (not x.log)) & ((ys > 0) | (not y.log))
    keep = np.flatnonzero(has_place).tolist()
    every = -(-len(keep) // MAX_POINTS) or 1
    keep = keep[::every] + [i for i in keep[-1:] if (len(keep) - 1) % every]
    titles = [series.titles[i] for i in keep] if series.titles else ()
    return Series(series.name, [series.x[i] for i in keep], [series.y[i] for i in keep], series.drawn, titles)


def _legend(names: Sequence[str]) -> tuple[str, float]:
    """Return names in their colours, in rows below the chart, and the height that they add."""
    drawn, x, y = [], 8.0, 0.0
    for number, name in enumerate(_cut(each, WIDTH - 40) for each in names):
        width = 24 + LETTER * len(name)
        if x + width > WIDTH and x > 8:
            x, y = 8.0, y + 18
        drawn.append(
            f'<circle cx="{x + 5:.1f}" cy="{HEIGHT + y + 6:.1f}" r="5" fill="var(--c{number % 6})"/>'
            f"{_text(x + 15, HEIGHT + y + 10, name)}"
        )
        x += width + 8
    return "".join(drawn), y + 20


def _svg(label: str, height: float, body: str, width: float = WIDTH) -> str:
    return (
        f'<svg class="chart" role="img" aria-label="{in_html(label)}" viewBox="0 0 {width} {height:g}" '
        f'width="{width}" height="{height:g}">{body}</svg>'
    )


def _empty_chart() -> str:
    return _svg("nothing to draw", 70, _text(WIDTH / 2, 40, "nothing to draw", "middle", "soft"))


def _text(x: float, y: float, text: str, anchor: str = "start", style: str = "plain") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{in_html(text)}</text>'


def _tooltip(text: str) -> str:
    return f"<title>{in_html(text)}</title>"


def _cut(text: str, width: float) -> str:
    most = max(int(width / LETTER), 1)
    return text if len(text) <= most else text[: most - 1] + "…"
