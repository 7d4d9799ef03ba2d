"""The figures about each kind of dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.report.figures.kinds import DRAWN, parts
from pipelines.store.dataset import Dataset
from pipelines.store.kinds import KINDS
from pipelines.store.step import Listener


def test_drawn_kinds_are_known() -> None:
    assert set(DRAWN) <= set(KINDS)


def test_kind_without_figures_has_no_parts(made: Callable[[str], Dataset], strict: Listener) -> None:
    assert list(parts(made("sample"), {}, strict.warn)) == []


def test_failed_figure_is_one_warning(made: Callable[[str], Dataset], warnings: Any, tmp_path: Any) -> None:
    gone = Dataset(tmp_path / "gone", made("ingest").manifest)
    assert list(parts(gone, {}, warnings.warn)) == []
    assert len(warnings.sentences) == 1 and "could be drawn" in warnings.sentences[0]
