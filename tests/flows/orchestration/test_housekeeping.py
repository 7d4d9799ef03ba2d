"""Housekeeping deletes nothing while nobody knows what is in use."""

import pytest

from flows.home import Home
from flows.orchestration.housekeeping import tidy
from gpt.config import Config
from pipelines.errors import InputError
from pipelines.store.step import StepType


@pytest.mark.parametrize("content", [None, "no database"])
def test_nothing_is_deleted_without_the_registry(tmp_path, monkeypatch, content):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path)
    step = StepType("make", "model", 1, Config, lambda: {}).using("x", Config(), {})
    home.store.build(step, lambda out, scratch: {})
    if content:
        (tmp_path / "mlruns").mkdir()
        (tmp_path / "mlruns" / "mlflow.db").write_text(content)
    with pytest.raises(InputError, match="MLflow's database"):
        tidy(home, 0, dry_run=False)
    assert len(home.store.list()) == 1
