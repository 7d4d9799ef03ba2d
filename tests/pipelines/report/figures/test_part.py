"""Parts of a report."""

from __future__ import annotations

from pipelines.report.figures.part import MAX_CHARACTERS, cells, name_of, slug


def test_slugs_fit_into_file_names() -> None:
    assert slug("Bits per byte, beside baselines!") == "bits-per-byte-beside-baselines"


def test_cells_are_rounded_and_cut() -> None:
    assert cells([(0.123456, "x" * 999, 7, None)]) == [(0.1235, "x" * MAX_CHARACTERS, 7, None)]


def test_systems_have_names_to_show() -> None:
    assert (name_of("model"), name_of("base_model")) == ("this model", "base model")
