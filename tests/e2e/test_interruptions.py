"""Runs that are interrupted, cancelled, started twice or left without Prefect lose and damage nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.servers.stack import Stack


def test_two_runs_at_once_build_each_step_once(
    place: Any, environment: dict[str, str], finished: tuple[Any, Any]
) -> None:
    runs = [start(place, environment, "tokenize") for _ in range(2)]
    print(*(run.communicate(timeout=300)[0] for run in runs), sep="\n")  # for the reader of a failure
    assert [run.returncode for run in runs] == [0, 0]
    theirs, ours = finished[0].contents(), place.contents()
    assert {"corpus/topics", "tokens/topics"} <= ours.keys()
    assert all(theirs[name] == ours[name] for name in ours if not name.startswith("report/"))
    built = "SELECT name, status FROM runs WHERE name IN ('ingest topics', 'tokenize topics') ORDER BY name"
    assert place.mlflow(built) == [("ingest topics", "FINISHED"), ("tokenize topics", "FINISHED")]


@pytest.mark.slow
def test_stopped_runs_resume_as_two_runs_bit_identical(
    place: Any,
    environment: dict[str, str],
    query_prefect: Callable[..., list[Any]],
    assert_as_undisturbed: Callable[[], None],
) -> None:
    training = start(place, environment)
    wait_for(lambda: list(place.home.glob("data/.scratch/*/checkpoints/*")), training)
    training.send_signal(signal.SIGINT)
    assert training.wait(120) == 130
    assert place.mlflow("SELECT DISTINCT status FROM runs WHERE status != 'FINISHED'") == [("KILLED",)]
    assert list(place.home.glob("data/.scratch/*/checkpoints/*")), "a checkpoint was written"

    later = start(place, environment)
    wait_for(lambda: list(place.home.glob("data/model/tiny-*")), later)
    later.terminate()
    assert later.wait(120) == 143

    states = query_prefect("SELECT state_type FROM flow_run WHERE parameters LIKE ?", f"%{place.home}/%")
    assert states == [("CANCELLED",)] * 2

    runs = [start(place, environment) for _ in range(2)]
    print(*(run.communicate(timeout=300)[0] for run in runs), sep="\n")  # for the reader of a failure
    assert [run.returncode for run in runs] == [0, 0]
    assert_as_undisturbed()


@pytest.mark.slow
def test_run_goes_on_when_its_killed_prefect_server_is_back(
    prefect_stack: Stack, place: Any, environment: dict[str, str], assert_as_undisturbed: Callable[[], None]
) -> None:
    run = start(place, environment)
    wait_for(lambda: list(place.home.glob("data/tokens/*")), run)
    pid = prefect_stack.status()[0].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    time.sleep(30)
    prefect_stack.up()
    output = run.communicate(timeout=300)[0]
    assert run.returncode == 0, output
    sentences = [line for line in output.splitlines() if "Prefect's server" in line]
    address = re.escape(environment["PREFECT_API_URL"])
    assert len(sentences) == 2 and re.fullmatch(rf"! .* {address} does not answer; waiting for it\.", sentences[0])
    assert sentences[1].endswith(" answers again.") and "Error" not in output and "Service" not in output
    assert_as_undisturbed()


IMPATIENT = "from flows.tracking import outages; outages.PATIENCE = 20; from flows.cli import main; main()"


@pytest.mark.slow
def test_hanging_prefect_server_ends_a_run_in_one_sentence_and_loses_nothing(
    prefect_stack: Stack, place: Any, environment: dict[str, str], assert_as_undisturbed: Callable[[], None]
) -> None:
    command = [sys.executable, "-c", IMPATIENT, "run", str(place.config)]
    run = subprocess.Popen(command, env=environment, cwd=place.home, stderr=subprocess.PIPE, text=True)
    wait_for(partial(newest_checkpoint, place), run)
    server = psutil.Process(prefect_stack.status()[0].pid)
    server.suspend()
    try:
        stderr = run.communicate(timeout=200)[1]
    finally:
        server.resume()
    assert run.returncode == 1, stderr
    assert stderr.count("does not answer; waiting for it.") == 1, stderr
    last = stderr.splitlines()[-1]
    assert re.fullmatch(
        r"tokenmill: Prefect's server at \S+ does not answer\. What was built is kept.*`tokenmill up`.*", last
    )
    assert "Error" not in stderr and "Service" not in stderr and "Traceback" not in stderr
    assert list(place.home.glob("data/model/tiny-*")), "the model was published all the same"
    again = start(place, environment)
    assert again.wait(300) == 0
    assert_as_undisturbed()


@pytest.mark.slow
def test_run_cancelled_in_prefect_saves_and_ends_as_cancelled(place: Any, environment: dict[str, str]) -> None:
    serving = serve_training(place, environment)
    try:
        ask = partial(asked, environment)
        run = start_served(environment, serving)
        wait_for(partial(newest_checkpoint, place), serving)
        ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        wait_for(lambda: ask(f"flow_runs/{run}")["state"]["type"] == "CANCELLED", serving)
    finally:
        serving.terminate()
        assert serving.wait(60) == 0
    assert newest_checkpoint(place) > 0
    ended = "SELECT r.status, t.value FROM runs r JOIN tags t USING (run_uuid) WHERE t.key = 'tokenmill.ended'"
    runs = place.mlflow(ended)
    assert [status for status, _ in runs] == ["KILLED", "KILLED"], runs
    assert all("ancel" in why or "interrupted" in why for _, why in runs), runs


@pytest.mark.slow
def test_ended_schedule_lets_its_run_save_and_end_as_cancelled(place: Any, environment: dict[str, str]) -> None:
    serving = serve_training(place, environment)
    try:
        run = start_served(environment, serving)
        wait_for(partial(newest_checkpoint, place), serving)
        before = newest_checkpoint(place)
    finally:
        serving.send_signal(signal.SIGINT)
        output = serving.communicate(timeout=120)[0]
    assert serving.returncode == 0, output
    assert "Ending 1 run in flight" in output
    assert asked(environment, f"flow_runs/{run}")["state"]["type"] == "CANCELLED"
    assert newest_checkpoint(place) >= before > 0
    assert place.mlflow("SELECT DISTINCT status FROM runs WHERE status != 'FINISHED'") == [("KILLED",)]


def serve_training(place: Any, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Serve a training that takes long."""
    place.config.write_text(place.config.read_text().replace("steps = 12", "steps = 100000"))
    schedules = place.home / "schedules.toml"
    schedules.write_text('[train]\nflow = "pretrain"\nconfig = "tiny.toml"\n')
    return start(place, environment, "schedule", schedules)


def start_served(environment: dict[str, str], serving: subprocess.Popen[str]) -> str:
    """Start a run of the deployment that is served; return its id."""
    paused = {"paused": {"eq_": False}}  # an earlier test's is paused
    named = {"deployments": {"name": {"like_": "train-"}, **paused}}  # the server of another home asks for an ending
    wait_for(lambda: asked(environment, "deployments/filter", named), serving)
    (deployment,) = asked(environment, "deployments/filter", named)
    return str(asked(environment, f"deployments/{deployment['id']}/create_flow_run", {})["id"])


def asked(environment: dict[str, str], path: str, body: Any = None) -> Any:
    """Return the answer of Prefect's API, or None if it knows no such thing yet."""
    content = None if body is None else json.dumps(body).encode()
    login = {"Authorization": f"Bearer {environment['PREFECT_API_AUTH_STRING']}"}
    url = f"{environment['PREFECT_API_URL']}/{path}"
    request = urllib.request.Request(url, content, {"Content-Type": "application/json", **login})
    for wait in (1, 2, 4, None):
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if error.code != 503 or not wait:  # Prefect's answer while its SQLite is busy
                raise
            time.sleep(wait)


def newest_checkpoint(place: Any) -> int:
    found = place.home.glob("data/.scratch/*/checkpoints/step-*")
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


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
