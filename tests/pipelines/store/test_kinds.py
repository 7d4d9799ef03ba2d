"""The table of dataset kinds."""

from __future__ import annotations

import duckdb
import pytest

from pipelines import chain
from pipelines.report.report import REPORT
from pipelines.store.kinds import KINDS, VIEWS, kind_of, parse_columns
from pipelines.store.step import StepType

STEPS = [value for value in [*vars(chain).values(), REPORT] if isinstance(value, StepType)]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_step_makes_a_known_kind(step: StepType) -> None:
    assert step.kind in KINDS


@pytest.mark.parametrize("name", VIEWS)
def test_empty_view_has_its_columns(name: str) -> None:
    found = duckdb.sql(VIEWS[name].empty_query)
    types = dict(zip(found.columns, map(str, found.types), strict=True))
    assert types == {"dataset": "VARCHAR", **parse_columns(VIEWS[name].columns)}


def test_kinds_with_texts_have_ids_and_places() -> None:
    for view in (kind.texts for kind in KINDS.values() if kind.texts):
        doc_id, *others = parse_columns(view.columns)
        assert doc_id.endswith("_id") and {"source", "location", "split", "text"} <= set(others)


def test_unknown_kind_has_a_plain_entry() -> None:
    assert kind_of("source").views == () and kind_of("source").colour.terminal == "white"


def test_unreadable_column_list_is_an_error() -> None:
    with pytest.raises(ValueError):
        parse_columns("doc_id VARCHAR, text")
