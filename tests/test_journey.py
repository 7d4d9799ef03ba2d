"""`docs/journey.md`: every Python block prints what the page shows below it."""

from pathlib import Path

import pytest
from page import run_page

PAGE = Path(__file__).parents[1] / "docs" / "journey.md"


def test_journey_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(run_page(PAGE)) >= 9
