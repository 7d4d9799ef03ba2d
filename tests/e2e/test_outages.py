"""A chain whose MLflow server is away for a time ends with the bytes of an undisturbed one."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.servers.stack import Stack

OUTAGES = Path(__file__).with_name("outages.py")


@pytest.mark.slow
def test_mlflow_outages_before_within_and_after_training_lose_nothing(
    place: Any,
    environment: dict[str, str],
    finished: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    free_port: Callable[[], int],
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", environment["PREFECT_API_URL"])  # so that no Prefect server starts
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stack = Stack(tmp_path / "mlflow", mlflow_port=free_port())
    service = stack.up()[1]
    try:
        done = subprocess.run(
            [sys.executable, str(OUTAGES), str(place.home), str(place.config), service.url],
            env=environment | stack.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        stack.down()
    assert done.returncode == 0, done.stderr
    never_back, several, last = json.loads(done.stdout.splitlines()[-1])
    sentence = r"MLflow at http://\S+ does not answer. What was built is kept"
    assert re.match(sentence, never_back["error"]) and re.match(sentence, several["error"]) and last["error"] is None
    assert re.search(r"MLflow at http://\S+ does not answer; waiting for it\.\n", done.stderr)
    before, training, hanging, end = several["outages"]
    assert before["published"] == ["corpus"]
    assert training["failed"] >= 6, "MLflow's client gave up more than once"
    assert hanging["published"] == ["corpus", "model", "samples", "tokens"], "the model was published first"
    assert end["failed"] >= 3

    theirs, ours = finished[0].contents(), place.contents()
    assert len(ours) == 5 and all(theirs[name] == ours[name] for name in ours if not name.startswith("report/"))
    assert not list(place.home.glob(".tokenmill/unsent/*"))
    with sqlite3.connect(stack.home / "mlruns" / "mlflow.db") as database:
        of_pretraining = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'tokenmill.step' AND value = 'pretrain')"
        points = (
            f"SELECT step, count(*) FROM metrics WHERE key = 'train/loss' AND {of_pretraining} GROUP BY 1 ORDER BY 1"
        )
        assert database.execute(points).fetchall() == [(step, 1) for step in range(12)]
        doubles = "SELECT 1 FROM metrics WHERE key = 'train/loss' GROUP BY run_uuid, step HAVING count(*) > 1"
        assert database.execute(doubles).fetchall() == []
        runs = database.execute("SELECT name, status FROM runs WHERE lifecycle_stage = 'active'").fetchall()
        assert sorted(runs) == [
            ("ingest topics", "FINISHED"),
            ("pretrain tiny", "FINISHED"),
            ("report tiny", "FINISHED"),
            ("sample topics", "FINISHED"),
            ("tiny", "FINISHED"),
            ("tiny", "KILLED"),
            ("tiny", "KILLED"),
            ("tokenize topics", "FINISHED"),
        ]
        ended = "SELECT count(*) FROM tags JOIN runs USING (run_uuid) WHERE key = 'tokenmill.ended' AND name != 'tiny'"
        assert database.execute(ended).fetchall() == [(0,)]
        assert database.execute("SELECT count(*) FROM model_versions").fetchall() == [(1,)]
