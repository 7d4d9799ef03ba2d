"""A chain that is killed, stopped, doubled or left without its servers ends with the bytes of one left in peace."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.stack import Stack
from pipelines.store import Dataset, Store

KILLER = Path(__file__).with_name("killer.py")
TRAININGS = ("pretrain", "finetune-classifier", "finetune-assistant")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Prefect server that outlives the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # so that no MLflow starts
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        stack = Stack(tmp_path_factory.mktemp("server"), prefect_port=port)
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
    moments = {(step, moment) for step, moment, _ in points}
    steps = {step for step, _, _ in points} - {"flow", "end"}
    assert len(steps) == 11
    assert {(step, moment) for step in steps for moment in ("start", "read", "publish", "record")} <= moments
    assert len([step for step in steps if (step, "write") in moments]) >= 9
    assert {(step, "checkpoint") for step in TRAININGS} <= moments
    ends_as_if_left_in_peace(place, finished)
    states = prefect(server, "SELECT state_type FROM flow_run WHERE parameters LIKE '%topics%'")
    assert states.count(("CRASHED",)) >= len(points) - 1 and states.count(("COMPLETED",)) == 1
    assert prefect(server, "SELECT count(*) FROM task_run WHERE state_type = 'RUNNING'") == [(0,)]


def test_runs_that_are_told_to_stop_and_runs_that_meet(
    place: Any, environment: dict[str, str], finished: tuple[Any, Any]
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

    runs = [start(place, environment) for _ in range(2)]
    told = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
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


def start(place: Any, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", str(place.config)],
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
    assert sorted(champions) == [("tiny", 1), ("tiny-answer", 1), ("tiny-sort", 1)]
    assert mlflow(place, "SELECT count(*) FROM model_versions") == [(3,)], "each is registered once"


def contents(datasets: list[Dataset]) -> dict[str, Any]:
    """Fingerprint and the digest of every file, by kind and name; but a report tells how long things took."""
    return {
        f"{dataset.ref.kind}/{dataset.ref.name}": (
            dataset.ref.fingerprint,
            None if dataset.ref.kind == "report" else dataset.manifest.files,
        )
        for dataset in datasets
    }


def prefect(server: Stack, query: str) -> list[Any]:
    with sqlite3.connect(server.home / ".tokenmill" / "prefect" / "prefect.db") as database:
        return database.execute(query).fetchall()


def mlflow(place: Any, query: str, *values: str) -> list[Any]:
    with sqlite3.connect(place.home / "mlruns" / "mlflow.db") as database:
        return database.execute(query, values).fetchall()
