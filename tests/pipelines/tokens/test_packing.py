from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.tokens.packing import best_fit


@given(st.lists(st.integers(1, 20), max_size=80), st.integers(20, 30))
def test_best_fit_packs_every_piece_once_and_tightly(lengths: list[int], capacity: int) -> None:
    windows = best_fit(lengths, capacity)
    assert sorted(piece for window in windows for piece in window) == list(range(len(lengths)))
    assert all(sum(lengths[piece] for piece in window) <= capacity for window in windows)
    assert len(windows) <= 11 / 9 * sum(lengths) / capacity + 11 / 9 * sum(n > capacity / 2 for n in lengths) + 4


def test_best_fit_fills_the_tightest_window() -> None:
    windows = best_fit([6, 5, 4, 5], 10)
    assert sorted(map(sorted, windows)) == [[0, 2], [1, 3]]
