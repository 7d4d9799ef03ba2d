"""Charts are well-formed SVG for any data."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from pipelines.report import charts
from pipelines.report.charts import Axis, Series

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(charts.standalone(svg))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30), st.booleans(), st.booleans())
def test_any_points_are_drawn_inside_the_frame(points: list[tuple[float, float]], log_x: bool, log_y: bool) -> None:
    series = [Series("a <b> & c", [p[0] for p in points], [p[1] for p in points], "both")]
    root = drawn(charts.lines(series, Axis("x", log=log_x), Axis("y", log=log_y)))
    for circle in root.iter(f"{SVG}circle"):
        assert -1 <= float(circle.get("cx", "nan")) <= charts.WIDTH + 1
        assert -1 <= float(circle.get("cy", "nan")) <= charts.HEIGHT + 1


def test_curve_has_points_with_tooltips_and_is_thinned() -> None:
    root = drawn(charts.lines([Series("loss", [0, 1, 2], [3.0, 2.0, 1.0])], Axis("step"), Axis("loss")))
    assert [t.text for t in root.iter(f"{SVG}title")] == ["step 0, loss 3", "step 1, loss 2", "step 2, loss 1"]
    heights = [float(circle.get("cy", 0)) for circle in root.iter(f"{SVG}circle")]
    assert heights == sorted(heights)  # downwards, as the loss
    long = drawn(charts.lines([Series("loss", range(100_000), range(100_000))], Axis("step"), Axis("loss")))
    titles = [t.text for t in long.iter(f"{SVG}title")]
    assert len(titles) <= charts.MAX_POINTS + 1 and titles[-1] == "step 100k, loss 100k"


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_within_their_ends(low: float, span: float) -> None:
    found = charts.ticks(low, low + span)
    assert len(found) <= 7
    assert all(low - span * 1e-6 - 1e-6 <= tick <= low + span * (1 + 1e-6) + 1e-6 for tick in found)


def test_logarithmic_ticks_are_powers_of_ten() -> None:
    assert charts.ticks(1, 40_000, log=True) == [1, 10, 100, 1000, 10_000]
    assert charts.ticks(1, 30, log=True) == [1, 2, 5, 10, 20]


def test_texts_of_users_are_escaped() -> None:
    bad = "<script>alert('&')</script>"
    pictures = [
        charts.bars([(bad, 1.0, bad)], bad),
        charts.matrix([bad, "b"], [[1, 2], [3, 4]], bad, bad),
        charts.cloud([(0, 0, bad, bad), (1, 1, "b", "b")], 2, bad),
        charts.lines([Series(bad, [1], [1], titles=[bad]), Series("b", [1], [2])], Axis(bad), Axis(bad)),
        charts.histogram([1, 2, 3], [5, 6], Axis(bad), Axis(bad)),
    ]
    for picture in pictures:
        assert "<script" not in picture
        assert any(bad in (each.text or "") or bad in (each.get("aria-label") or "") for each in drawn(picture).iter())


def test_control_characters_leave_a_chart_well_formed() -> None:
    for drawn in (
        charts.bars([("a\x1b\x00\ud800", 1.0, "1")], "x\x9b"),
        charts.matrix(["\x07", "\u202e"], [[1, 2], [3, 4]], "down", "across"),
    ):
        ElementTree.fromstring(charts.standalone(drawn).encode())


def test_interval_is_a_line_over_the_end_of_its_bar() -> None:
    root = drawn(charts.bars([("a", 0.5, "0.500"), ("b", 0.2, "0.200")], "scores", {"a": (0.4, 0.6)}))
    (line,) = [path.get("d") for path in root.iter(f"{SVG}path")]
    left, right = (float(x) for x in re.findall(r"[\d.]+", line)[:3:2])
    bars = [each for each in root.iter(f"{SVG}rect") if each.get("rx")]
    end = float(bars[0].get("x", 0)) + float(bars[0].get("width", 0))
    assert left < end < right


def test_matrix_shows_every_count() -> None:
    root = drawn(charts.matrix(["ham", "spam"], [[90, 10], [3, 7]], "truth", "predicted"))
    titles = {title.text for title in root.iter(f"{SVG}title")}
    assert "ham taken for spam: 10 (10.0%)" in titles and "spam taken for spam: 7 (70.0%)" in titles
    assert math.isclose(len(titles), 4)
