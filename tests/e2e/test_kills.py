"""A chain that is killed, stopped, doubled or left without its servers ends with the bytes of one left in peace."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.servers.stack import Stack
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store

KILLER, OUTAGES = Path(__file__).with_name("killer.py"), Path(__file__).with_name("outages.py")
TRAININGS = {"pretrain", "finetune-classifier", "finetune-assistant"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Prefect server that outlives the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # so that no MLflow starts
        stack = Stack(tmp_path_factory.mktemp("server"), prefect_port=free_port())
        stack.up()
        try:
            yield stack
        finally:
            stack.down()


@pytest.fixture
def environment(server: Stack, place: Any) -> dict[str, str]:
    url = f"{server.status()[0].url}/api"
    return place.environment | {"PREFECT_API_URL": url, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_a_chain_that_is_killed_at_every_kind_of_moment_of_every_step(
    place: Any, environment: dict[str, str], finished: tuple[Any, Any], server: Stack
) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLER), str(place.home), str(place.config)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)  # where it was killed, for who reads a failure
    assert done.returncode == 0, done.stderr
    points = [tuple(point) for point in json.loads(done.stdout.splitlines()[-1])]
    assert len(points) >= 50
    moments = {(step, moment) for step, moment, _ in points if step not in ("flow", "end")}
    steps = Counter(moment for _, moment in moments)
    assert all(steps[moment] >= 9 for moment in ("start", "read", "write", "publish", "record")), steps
    assert {step for step, moment in moments if moment == "checkpoint"} == TRAININGS
    ends_as_if_left_in_peace(place, finished)
    states = prefect(server, "SELECT state_type FROM flow_run WHERE parameters LIKE ?", f"%{place.home}/%")
    assert states.count(("CRASHED",)) >= len(points) - 1 and states.count(("COMPLETED",)) == 1
    assert prefect(server, "SELECT name FROM task_run WHERE state_type IN ('PENDING', 'RUNNING')") == []


def test_runs_that_are_told_to_stop_and_runs_that_meet(
    server: Stack, place: Any, environment: dict[str, str], finished: tuple[Any, Any]
) -> None:
    training = start(place, environment)
    wait_for(lambda: list(place.home.glob("data/.scratch/*/checkpoints/*")), training)
    training.send_signal(signal.SIGINT)
    assert training.wait(120) == 130
    assert mlflow(place, "SELECT DISTINCT status FROM runs WHERE status != 'FINISHED'") == [("KILLED",)]
    assert list(place.home.glob("data/.scratch/*/checkpoints/*")), "a checkpoint was written"

    later = start(place, environment)
    wait_for(lambda: list(place.home.glob("data/model/tiny-*")), later)
    later.terminate()
    assert later.wait(120) == 143

    states = prefect(server, "SELECT state_type FROM flow_run WHERE parameters LIKE ?", f"%{place.home}/%")
    assert states == [("CANCELLED",)] * 2

    runs = [start(place, environment) for _ in range(2)]
    print(*(run.communicate(timeout=300)[0] for run in runs), sep="\n")  # for who reads a failure
    assert [run.returncode for run in runs] == [0, 0]
    ends_as_if_left_in_peace(place, finished)


def test_a_prefect_server_that_dies_and_comes_back(
    server: Stack, place: Any, environment: dict[str, str], finished: tuple[Any, Any]
) -> None:
    run = start(place, environment)
    wait_for(lambda: list(place.home.glob("data/tokens/*")), run)
    pid = server.status()[0].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    time.sleep(10)
    server.up()
    assert run.wait(300) == 0
    ends_as_if_left_in_peace(place, finished)


def test_mlflow_may_be_away_before_a_step_in_the_middle_of_a_training_and_as_it_ends(
    place: Any, environment: dict[str, str], finished: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", environment["PREFECT_API_URL"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stack = Stack(tmp_path / "mlflow", mlflow_port=free_port())
    service = stack.up()[1]
    try:
        done = subprocess.run(
            [sys.executable, str(OUTAGES), str(place.home), str(place.config), service.url],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        stack.down()
    assert done.returncode == 0, done.stderr
    never, hardly, well = json.loads(done.stdout.splitlines()[-1])
    sentence = r"MLflow at http://\S+ does not answer. What was built is kept"
    assert re.match(sentence, never["error"]) and re.match(sentence, hardly["error"]) and well["error"] is None
    assert "MLflow does not answer; waiting for it." in done.stderr
    before, training, hanging, end = hardly["outages"]
    assert before["published"] == ["corpus"]
    assert training["failed"] >= 6, "it was away for so long that MLflow's client gave up again and again"
    assert hanging["published"] == ["corpus", "model", "samples", "tokens"], "the model came first"
    assert end["failed"] >= 3

    theirs = contents(Store(finished[0].home / "data").list())
    ours = contents(Store(place.home / "data").list())
    assert len(ours) == 5 and all(theirs[name] == ours[name] for name in ours if not name.startswith("report/"))
    assert not list(place.home.glob(".tokenmill/unsent/*"))
    with sqlite3.connect(stack.home / "mlruns" / "mlflow.db") as database:
        points = "SELECT step, count(*) FROM metrics WHERE key = 'train/loss' GROUP BY step ORDER BY step"
        assert database.execute(points).fetchall() == [(step, 1) for step in range(12)]
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


def test_a_run_that_is_cancelled_in_prefect_saves_and_ends_as_cancelled(
    place: Any, environment: dict[str, str]
) -> None:
    place.config.write_text(place.config.read_text().replace("steps = 12", "steps = 100000"))
    schedules = place.home / "schedules.toml"
    schedules.write_text('[train]\nflow = "pretrain"\nconfig = "tiny.toml"\n')
    serving = start(place, environment, "schedule", schedules)
    try:
        url = environment["PREFECT_API_URL"]
        wait_for(lambda: ask(url, "deployments/name/pretrain/train"), serving)
        deployment = ask(url, "deployments/name/pretrain/train")["id"]
        run = ask(url, f"deployments/{deployment}/create_flow_run", {})["id"]
        wait_for(partial(newest_checkpoint, place), serving)
        ask(url, f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        wait_for(lambda: ask(url, f"flow_runs/{run}")["state"]["type"] == "CANCELLED", serving)
    finally:
        serving.terminate()
        assert serving.wait(60) == 0
    assert newest_checkpoint(place) > 0
    ended = "SELECT r.status, t.value FROM runs r JOIN tags t USING (run_uuid) WHERE t.key = 'tokenmill.ended'"
    runs = mlflow(place, ended)
    assert [status for status, _ in runs] == ["KILLED", "KILLED"], runs
    assert all("ancel" in why or "interrupted" in why for _, why in runs), runs


def ask(url: str, path: str, body: Any = None) -> Any:
    """What Prefect's API answers; nothing if there is no such thing yet."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/{path}", content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def newest_checkpoint(place: Any) -> int:
    found = place.home.glob("data/.scratch/*/checkpoints/step-*")
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    place: Any, environment: dict[str, str], command: str = "run", file: Path | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", command, str(file or place.config)],
        env=environment,
        cwd=place.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], Any], run: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 180
    while not condition():
        assert run.poll() is None, run.stdout and run.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.02)


def ends_as_if_left_in_peace(place: Any, finished: tuple[Any, Any]) -> None:
    """The same bytes, nothing left over, and in MLflow every dataset's run finished and every model a champion."""
    store, peaceful = Store(place.home / "data"), Store(finished[0].home / "data")
    published = store.list()
    assert [store.verify(dataset) for dataset in published] == [[]] * len(published)
    assert contents(published) == contents(peaceful.list())
    assert not list(store.root.glob(".staging/*")) and not list(store.root.glob(".scratch/*"))

    assert mlflow(place, "SELECT count(*) FROM runs WHERE status = 'RUNNING'") == [(0,)]
    built = "SELECT status FROM runs WHERE run_uuid = ?"
    for dataset in published:
        assert mlflow(place, built, dataset.manifest.built["mlflow_run_id"]) == [("FINISHED",)], dataset
    pretrain = store.open("model/tiny").manifest.built["mlflow_run_id"]
    curve = "SELECT DISTINCT step FROM metrics WHERE run_uuid = ? AND key = 'train/loss' ORDER BY step"
    assert mlflow(place, curve, pretrain) == [(step,) for step in range(12)], "curves have no holes"
    champions = mlflow(place, "SELECT name, version FROM registered_model_aliases WHERE alias = 'champion'")
    assert sorted(champions) == [(name, 1) for name in ("tiny", "tiny-answer", "tiny-sort", "tiny-sort-from-scratch")]
    assert mlflow(place, "SELECT count(*) FROM model_versions") == [(4,)], "each is registered once"


def contents(datasets: list[Dataset]) -> dict[str, Any]:
    """Fingerprint and the digest of every file, by kind and name; but a report tells how long things took."""
    return {
        f"{dataset.ref.kind}/{dataset.ref.name}": (
            dataset.ref.fingerprint,
            None if dataset.ref.kind == "report" else dataset.manifest.files,
        )
        for dataset in datasets
    }


def prefect(server: Stack, query: str, *values: str) -> list[Any]:
    with sqlite3.connect(server.home / ".tokenmill" / "prefect" / "prefect.db") as database:
        return database.execute(query, values).fetchall()


def mlflow(place: Any, query: str, *values: str) -> list[Any]:
    with sqlite3.connect(place.home / "mlruns" / "mlflow.db") as database:
        return database.execute(query, values).fetchall()
