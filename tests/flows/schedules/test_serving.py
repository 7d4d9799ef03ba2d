"""Schedules that a real Prefect server serves: runs in time, one at a time, asked to end and awaited."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import psutil
import pytest
from prefect.states import AwaitingConcurrencySlot

from flows.schedules.deployments import SECONDS_TO_END, serve
from flows.schedules.runner import STILL_RUNNING, OwnRunner
from flows.servers.stack import Stack
from pipelines.errors import InputError

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "configs" / "schedules.toml"

TICKING = """
import signal
import sys
import time
from pathlib import Path

from prefect import flow

def note(flow, flow_run, state):
    Path(flow_run.parameters["folder"], f"{state.name} {flow_run.name}").touch()

@flow(name="tick", on_cancellation=[note], on_crashed=[note])
def tick(folder: str, seconds: float = 0, deaf: bool = False) -> None:
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (Path(folder) / f"{time.time()}").touch()
    time.sleep(seconds)

if __name__ == "__main__":
    from flows.schedules import deployments
    from ticking import tick
    deployments.SECONDS_TO_END = float(sys.argv[1])
    deployments.serve(sys.argv[2], sys.argv[3], {"tick": tick})
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return a home with a real Prefect server, its API's address, and an environment for processes."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("PREFECT_HOME", str(home / ".tokenmill" / "prefect"))
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # so that no MLflow starts
        patch.setenv("PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS", "2")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        stack = Stack(home, prefect_port=port)
        stack.up()
        (home / "ticking.py").write_text(TICKING)
        (home / "ticks").mkdir()
        patch.setenv("PREFECT_API_AUTH_STRING", stack.servers[0].secret.value)  # for `post`; programs know it anyway
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{home}"}
        try:
            yield home, f"http://127.0.0.1:{port}/api", environment
        finally:
            stack.down()


@pytest.mark.slow
def test_schedule_fires_survives_a_kill_and_does_not_accumulate(server):
    home, url, environment = server
    path = home / "schedules.toml"
    often = f'flow = "tick"\ninterval = 2\nparameters = {{ folder = "{home / "ticks"}" }}\n'
    path.write_text(f'[often]\n{often}[queued]\n{often}collision = "enqueue"\n')

    serving = start(home, path, environment)
    wait_for(lambda: len(by_deployment(runs(url, "COMPLETED"))) == 2, serving)

    with pytest.raises(InputError, match="Another `tokenmill schedule` runs"):
        serve(SHIPPED, home)

    # Killed during a run, and absent at several of its times.
    wait_for(lambda: runs(url, "PENDING") + runs(url, "RUNNING"), serving)
    os.killpg(serving.pid, signal.SIGKILL)
    serving.wait()
    wait_for(lambda: [len(each) >= 2 for each in overdue(url).values()] == [True, True])
    missed = overdue(url)
    orphans = {run["id"] for state in ("PENDING", "RUNNING") for run in runs(url, state)}

    before = by_deployment(runs(url, "COMPLETED"))
    serving = start(home, path, environment)
    wait_for(lambda: all(by_deployment(runs(url, "COMPLETED"))[each] > ids for each, ids in before.items()), serving)
    assert len(list((home / "ticks").iterdir())) >= 4
    ended = {state: {run["id"] for run in runs(url, state)} for state in ("COMPLETED", "CANCELLED")}
    for each in missed.values():
        assert len(each & ended["COMPLETED"]) <= 1 and len(each & ended["CANCELLED"]) >= len(each) - 1
    assert not orphans & {run["id"] for state in ("PENDING", "RUNNING") for run in runs(url, state)}

    wait_for(lambda: runs(url, "RUNNING"), serving)  # it ends cleanly during a run too
    started = time.monotonic()
    serving.terminate()
    assert serving.wait(60) == 0
    gave_up = time.monotonic() - started >= SECONDS_TO_END  # a server on a busy machine may hang longer than that
    assert gave_up or [each["paused"] for each in deployments(url, "often", "queued")] == [True, True]


def test_signal_ends_it_while_the_server_hangs(server):
    home, url, environment = server
    path = home / "by_hand.toml"
    path.write_text(f'[by-hand]\nflow = "tick"\nparameters = {{ folder = "{home / "ticks"}" }}\n')
    (prefect, _) = Stack(home).status()
    serving = start(home, path, environment, ending=1)
    try:
        wait_until_polled(url, "by-hand", serving)
        os.kill(prefect.pid, signal.SIGSTOP)
        serving.terminate()
        assert serving.wait(30) == 0
    finally:
        os.kill(prefect.pid, signal.SIGCONT)
        serving.kill()


@pytest.mark.slow
def test_two_homes_serve_the_same_names_on_one_server(server, tmp_path):
    home, url, environment = server
    path = tmp_path / "both.toml"
    path.write_text(f'[both]\nflow = "tick"\nparameters = {{ folder = "{home / "ticks"}" }}\n')
    other = tmp_path / "other"
    other.mkdir()
    (other / "ticking.py").write_text(TICKING)
    processes = [start(home, path, environment), start(other, path, {**environment, "PREFECT_API_URL": url})]

    def polled():
        found = post(f"{url}/deployments/filter", {"deployments": {"name": {"like_": "both"}}})
        return {each["name"]: each["id"] for each in found if each["last_polled"]}

    wait_for(lambda: len(polled()) == 2, processes[1])
    ours, theirs = sorted(polled())
    assert ours == "both" and re.fullmatch("both-[0-9a-f]{6}", theirs)
    processes[1].terminate()
    assert processes[1].wait(60) == 0
    before = len(list((home / "ticks").iterdir()))
    create_run(url, polled()[ours])
    wait_for(lambda: len(list((home / "ticks").iterdir())) > before, processes[0])
    processes[0].terminate()
    assert processes[0].wait(60) == 0


@pytest.mark.slow
def test_second_signal_kills_runs_that_do_not_end(server, tmp_path):
    home, url, environment = server
    path, folder = tmp_path / "deaf.toml", tmp_path / "deaf"
    folder.mkdir()
    path.write_text(f'[deaf]\nflow = "tick"\nparameters = {{ folder = "{folder}", seconds = 600, deaf = true }}\n')
    serving = start(home, path, environment)
    wait_until_polled(url, "deaf", serving)
    create_run(url, deployments(url, "deaf")[0]["id"])
    wait_for(lambda: list(folder.iterdir()), serving)
    (run,) = [each for each in psutil.Process(serving.pid).children() if "served_run" in " ".join(each.cmdline())]
    serving.send_signal(signal.SIGINT)
    time.sleep(3)
    assert serving.poll() is None and run.is_running()
    serving.send_signal(signal.SIGINT)
    assert serving.wait(60) in (0, -signal.SIGKILL)
    wait_for(lambda: not run.is_running() or run.status() == psutil.STATUS_ZOMBIE)


class Run:
    """A run in flight that ends some time after it was asked to."""

    def __init__(self, left):
        self.left, self.asked, self.is_killed = left, 0, False

    def is_alive(self):
        self.left -= bool(self.asked)
        return self.left > 0 and not self.is_killed

    def graceful_kill(self):
        self.asked += 1

    def hard_kill(self):
        self.is_killed = True


@pytest.mark.parametrize("is_hurried", [False, True])
def test_runs_in_flight_are_asked_once_and_awaited(is_hurried):
    found = [Run(3), Run(2), Run(1000 if is_hurried else 2)]
    runner = object.__new__(OwnRunner)
    runner._process_manager = SimpleNamespace(_process_map=dict(enumerate(found)))
    runner._scheduled_run_poller = SimpleNamespace(stopping=False)
    asyncio.run(runner.end_runs(lambda: is_hurried and found[0].left < 2))
    assert runner._scheduled_run_poller.stopping
    assert [run.asked for run in found] == [1, 1, 1]
    assert [run.is_killed for run in found] == [is_hurried, False, is_hurried]


DEPLOYMENT = uuid4()


class Client:
    """Prefect's client, whose server makes every run wait."""

    def __init__(self, others):
        self.others, self.set = others, {}

    async def read_flow_runs(self, flow_run_filter, limit):
        return self.others

    async def read_flow_run(self, identifier):
        return SimpleNamespace(state=AwaitingConcurrencySlot())

    async def set_flow_run_state(self, identifier, state):
        self.set[identifier] = state


@pytest.mark.parametrize(
    ("by_schedule", "drops", "others", "message"),
    [
        (True, True, [], STILL_RUNNING),
        (True, True, ["a person's run"], STILL_RUNNING),
        (True, False, [], None),
        (False, True, ["a person's run"], None),
    ],
)
def test_only_scheduled_runs_are_dropped_while_another_runs(by_schedule, drops, others, message):
    async def refuse(flow_run):
        assert not (by_schedule and others), "a run that waits comes first"
        return False

    runner = object.__new__(OwnRunner)
    runner._client, runner._propose, runner._dropping = Client(others), refuse, {DEPLOYMENT} if drops else set()
    flow_run = SimpleNamespace(id=1, deployment_id=DEPLOYMENT, auto_scheduled=by_schedule)
    assert asyncio.run(runner._begin_or_drop(flow_run)) is False
    assert [state.message for state in runner._client.set.values()] == ([message] if message else [])


@pytest.mark.slow
def test_persons_run_waits_and_scheduled_ones_are_dropped(server):
    home, url, environment = server
    path, folder = home / "busy.toml", home / "busy"
    folder.mkdir()
    path.write_text(f'[busy]\nflow = "tick"\ninterval = 4\nparameters = {{ folder = "{folder}", seconds = 15 }}\n')
    serving = start(home, path, environment)
    wait_for(lambda: list(folder.iterdir()), serving)
    (deployment,) = deployments(url, "busy")
    asked = create_run(url, deployment["id"], parameters={"folder": str(folder), "seconds": 0})
    wait_for(lambda: asked in {run["id"] for run in runs(url, "COMPLETED")}, serving)
    dropped = [run for run in runs(url, "CANCELLED") if run["deployment_id"] == deployment["id"]]
    assert dropped and {run["state"]["message"] for run in dropped} == {STILL_RUNNING}
    assert all(run["auto_scheduled"] for run in dropped)
    serving.terminate()
    assert serving.wait(60) == 0


@pytest.mark.slow
def test_changed_database_executes_nothing(server):
    home, url, environment = server
    mark, path = home / "executed", home / "attacked.toml"
    (home / "harmful.py").write_text(f"open({str(mark)!r}, 'w')\nfrom prefect import flow\nharmful = flow(print)\n")
    names = ["changed", "variables", "wrong", "same-name", "untouched"]
    parameters = f'parameters = {{ folder = "{home / "ticks"}" }}'
    path.write_text("".join(f'[{name}]\nflow = "tick"\n{parameters}\n' for name in names))
    serving = start(home, path, environment)
    wait_for(lambda: len(deployments(url, *names)) == len(names), serving)
    ids = {each["name"]: each["id"] for each in deployments(url, *names)}
    (flow,) = {each["flow_id"] for each in deployments(url, *names)}
    before = len(list((home / "ticks").iterdir()))

    # What somebody with all rights writes into Prefect's database.
    script = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {mark}"}}
    theirs = {"entrypoint": "harmful.py:harmful", "path": str(home), "pull_steps": [script]}
    job = {"command": f"touch {mark}", "env": {"PYTHONSTARTUP": str(home / "harmful.py")}, "working_dir": str(home)}
    change = {"flow_id": flow, "parameters": {"folder": str(home / "ticks")}, "enforce_parameter_schema": False}
    post(f"{url}/deployments/", {"name": "changed", **change, **theirs, "job_variables": job})
    post(f"{url}/deployments/", {"name": "wrong", **change})
    foreign = post(f"{url}/flows/", {"name": "foreign"})["id"]
    foreign_run = create_run(
        url, post(f"{url}/deployments/", {"name": "same-name", "flow_id": foreign, **theirs})["id"]
    )
    asked = {
        "changed": create_run(url, ids["changed"]),
        "variables": create_run(url, ids["variables"], job_variables=job),
        "wrong": create_run(url, ids["wrong"], parameters={"folder": "x", "sekonds": 1}),
        "untouched": create_run(url, ids["untouched"]),
    }

    def state(run):
        found = post(f"{url}/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return found[0]["state"]["type"], found[0]["state"]["message"]

    wait_for(lambda: all(state(run)[0] in ("FAILED", "COMPLETED", "CRASHED") for run in asked.values()), serving)
    states = {name: state(run) for name, run in asked.items()}
    assert states.pop("untouched")[0] == "COMPLETED"
    assert states == {
        "changed": ("FAILED", not_ours("entry point, pull steps, job variables", "tick/changed")),
        "variables": ("FAILED", not_ours("job variables", "tick/variables")),
        "wrong": ("FAILED", "Not executed: the run's parameters: unknown key 'sekonds'; did you mean 'seconds'?"),
    }
    assert state(foreign_run)[0] == "SCHEDULED"
    assert not mark.exists() and len(list((home / "ticks").iterdir())) == before + 1
    serving.terminate()
    assert serving.wait(60) == 0


@pytest.mark.slow
def test_cancelled_and_killed_runs_call_the_hooks_of_our_flow(server):
    home, url, environment = server
    path, folder = home / "ended.toml", home / "ended"
    folder.mkdir()
    path.write_text(f'[ended]\nflow = "tick"\nparameters = {{ folder = "{folder}", seconds = 600 }}\n')
    serving = start(home, path, environment)
    wait_until_polled(url, "ended", serving)
    (deployment,) = deployments(url, "ended")

    def run_until_it_ticks():
        before = len(list(folder.iterdir()))
        asked = post(f"{url}/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})
        wait_for(lambda: len(list(folder.iterdir())) > before, serving)
        return asked

    cancelled = run_until_it_ticks()
    post(f"{url}/flow_runs/{cancelled['id']}/set_state", {"state": {"type": "CANCELLING"}})
    wait_for((folder / f"Cancelling {cancelled['name']}").exists, serving)
    wait_for(lambda: cancelled["id"] in {run["id"] for run in runs(url, "CANCELLED")}, serving)
    killed = run_until_it_ticks()
    (process,) = [
        each for each in psutil.Process(serving.pid).children() if "flows.schedules.served_run" in each.cmdline()
    ]
    process.kill()
    wait_for((folder / f"Crashed {killed['name']}").exists, serving)
    serving.terminate()
    assert serving.wait(60) == 0


def not_ours(what, name):
    return (
        f"Not executed: {what} of {name} in Prefect's database are not ours; "
        "start the run without them, or restart `tokenmill schedule`."
    )


def create_run(url, deployment, **values):
    return post(f"{url}/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}, **values})["id"]


def deployments(url, *names):
    return post(f"{url}/deployments/filter", {"deployments": {"name": {"any_": names}}})


def overdue(url):
    return by_deployment(runs(url, "SCHEDULED", before=time.time()))


def by_deployment(found):
    """Return the ids of runs by deployment."""
    ids = {}
    for run in found:
        ids.setdefault(run["deployment_id"], set()).add(run["id"])
    return ids


def start(home, path, environment, ending=SECONDS_TO_END):
    command = [sys.executable, str(home / "ticking.py"), str(ending), str(path), str(home)]
    with (home / LOG).open("a") as log:  # a pipe without a reader fills up and blocks the process
        serving = subprocess.Popen(
            command, env=environment, cwd=home, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
    SERVING.append(serving)
    return serving


LOG = "serve.log"
SERVING = []


@pytest.fixture(autouse=True)
def end_what_a_test_left():
    yield
    while SERVING:
        if (serving := SERVING.pop()).poll() is None:
            os.killpg(serving.pid, signal.SIGKILL)
            serving.wait()


def runs(url, state, before=None):
    found = post(f"{url}/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": [state]}}}, "limit": 200})
    due = [datetime.fromisoformat(run["expected_start_time"]).timestamp() for run in found]
    return [run for run, at in zip(found, due, strict=True) if before is None or at < before]


def post(url, query):
    login = {"Authorization": f"Bearer {os.environ['PREFECT_API_AUTH_STRING']}"}
    request = urllib.request.Request(url, json.dumps(query).encode(), {"Content-Type": "application/json", **login})
    for _ in range(10):
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)
        time.sleep(1)  # SQLite is busy
    raise AssertionError(f"{url} refuses {query}")


def wait_until_polled(url, name, process):
    wait_for(lambda: any(each["last_polled"] for each in deployments(url, name)), process)


def wait_for(condition, process=None):
    until = time.monotonic() + 300
    while not condition():
        assert process is None or process.poll() is None, Path(process.args[-1], LOG).read_text()
        assert time.monotonic() < until
        time.sleep(0.2)
