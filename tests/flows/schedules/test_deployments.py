"""Schedules: read from TOML, turned into deployments, and served with a real Prefect server."""

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

from flows.label import Label
from flows.schedules.deployments import (
    SECONDS_TO_END,
    Schedule,
    load_schedules,
    make_deployments,
    prefect_yaml,
    serve,
    tokenmill_flows,
)
from flows.schedules.runner import STILL_RUNNING, OwnRunner
from flows.schedules.served_run import validate_parameters
from flows.servers.stack import Stack
from pipelines.config import parse_config
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


CONFIG = {"name": "x", "ingest": {"sources": [{"uri": "x.txt"}]}}
PARAMETERS = {name: {} if name == "housekeeping" else {"config": CONFIG} for name in tokenmill_flows()}


def schedules(tmp_path, text):
    path = tmp_path / "schedules.toml"
    path.write_text(text)
    return path


def test_shipped_schedules_allow_one_run_at_a_time():
    made = {each.name: each for each in make_deployments(load_schedules(SHIPPED), SHIPPED)}
    assert made.keys() == {"refresh", "nightly-evaluation", "housekeeping"}
    for deployment in made.values():
        assert deployment.concurrency_limit == 1
        assert deployment.concurrency_options.collision_strategy.value == "ENQUEUE", "people's runs are never cancelled"
        assert len(deployment.schedules) == 1
        assert deployment.paused is False, "a server that ended cleanly has paused them"
    assert made["refresh"].flow_name == "run"
    assert made["refresh"].parameters["config"]["name"] == "quickstart"
    assert made["refresh"].parameters["config"]["base"] == "champion"
    assert "base=champion" in made["refresh"].parameters["label"]["overrides"]
    assert made["nightly-evaluation"].flow_name == "reevaluate"
    assert made["housekeeping"].parameters["keep_days"] == 90
    assert str(made["nightly-evaluation"].schedules[0].schedule.cron) == "30 5 * * *"
    assert "FREQ=WEEKLY" in made["housekeeping"].schedules[0].schedule.rrule


@pytest.mark.parametrize("name", sorted(tokenmill_flows()))
def test_every_field_in_prefects_forms_has_a_description(name):
    (deployment,) = make_deployments(
        {"by-hand": Schedule(flow=name, config=None, parameters=PARAMETERS[name])}, SHIPPED
    )
    form = deployment._parameter_openapi_schema.model_dump()
    forms = {"": form, **form["definitions"]}
    fields = {
        f"{table}.{key}": field for table, each in forms.items() for key, field in each.get("properties", {}).items()
    }
    assert [key for key, field in fields.items() if not field.get("description")] == []
    if name not in ("housekeeping", "evaluate-new"):
        assert {
            ".config",
            ".label",
            "Label.name",
            "Label.note",
            "PretrainConfig.steps",
            "RunConfig.base",
            "LanguageCriterion.margin",
        } <= fields.keys()


def test_prefect_yaml_declares_the_same_deployments():
    committed = (ROOT / "prefect.yaml").read_text()
    made = prefect_yaml(load_schedules(SHIPPED), SHIPPED)
    version = "prefect-version:"
    assert [line for line in committed.splitlines() if not line.startswith(version)] == [
        line for line in made.splitlines() if not line.startswith(version)
    ]


def test_schedule_with_every_key_makes_a_deployment(tmp_path):
    path = schedules(
        tmp_path,
        f"""
        [often]
        flow = "run"
        config = "{ROOT / "configs" / "quickstart.toml"}"
        set = ["pretrain.steps=7"]
        parameters = {{ rebuild = true }}
        interval = "PT15M"
        timezone = "Europe/Vienna"
        collision = "enqueue"
        description = "Often."
        """,
    )
    (often,) = make_deployments(load_schedules(path), path)
    assert often.parameters["config"]["pretrain"]["steps"] == 7
    assert often.parameters["rebuild"] is True
    assert often.schedules[0].schedule.interval.total_seconds() == 900
    assert often.schedules[0].schedule.timezone == "Europe/Vienna"
    assert often.description == "Often."
    assert make_deployments({"by-hand": Schedule(flow="housekeeping")}, path)[0].schedules == []


def test_paths_start_from_the_files_in_which_they_are_written(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x.toml").write_text('name = "x"\n[[ingest.sources]]\nuri = "x.txt"\n')
    path = schedules(tmp_path, """[x]\nflow = "ingest"\nconfig = "runs/x.toml"\nset = ["ingest.bad_words=bad.txt"]""")
    monkeypatch.chdir("/")
    ingest = make_deployments(load_schedules(path), path)[0].parameters["config"]["ingest"]
    assert ingest["sources"][0]["uri"] == f"{tmp_path}/runs/x.txt"
    assert ingest["bad_words"] == f"{tmp_path}/bad.txt"


WRONG = {
    "": "holds no schedule",
    "x = 1": "'x' stands outside",
    "[x]\n": r"\[x\] 'flow' is missing",
    "[x": "not valid TOML",
    "[X]\nflow = 'run'": "'X' cannot name a schedule",
    "[x]\nflow = 'run'\ncrom = '* * * * *'": r"\[x\] unknown key 'crom'; did you mean 'cron'",
    "[x]\nflow = 'housekeeping'\ncron = '* * * * *'\ninterval = 3": r"cron and interval are given",
    "[x]\nflow = 'housekeeping'\ncron = '61 * * * *'": r"\[x\] .*cron",
    "[x]\nflow = 'housekeeping'\nrrule = 'FREQ=SOMETIMES'": r"\[x\] .*SOMETIMES|RRule",
    "[x]\nflow = 'housekeeping'\ninterval = 0": r"\[x\] 'interval' is wrong",
    "[x]\nflow = 'housekeeping'\ninterval = 3\ntimezone = 'Europe/Wien'": r"no such time zone",
    "[x]\nflow = 'housekeeping'\ninterval = 3\ntimezone = '../../etc/passwd'": r"no such time zone",
    "[x]\nflow = 'housekeeping'\ncollision = 'wait'": r"\[x\] 'collision' is wrong",
    "[x]\nflow = 'evalute'": r"did you mean 'evaluate'",
    "[x]\nflow = 'run'": r"\[x\] run needs 'config'",
    "[x]\nflow = 'run'\nset = ['a=1']": r"no config is given",
    "[x]\nflow = 'run'\nconfig = 'nowhere.toml'": "no config file .*nowhere.toml",
    "[x]\nflow = 'housekeeping'\nparameters = { days = 3 }": r"takes no 'days'; it takes checkpoint_days",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_schedule_gets_one_sentence(tmp_path, text):
    path = schedules(tmp_path, text)
    with pytest.raises(InputError, match=WRONG[text]) as caught:
        make_deployments(load_schedules(path), path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def tick(folder: str, seconds: float = 0) -> None:
    """A flow's function, such as Prefect wraps."""


PARAMETERS_OF_A_RUN = {
    "unknown key 'sekonds'; did you mean 'seconds'": {"folder": "x", "sekonds": 1},
    "'seconds' is wrong": {"folder": "x", "seconds": "many"},
    "'folder' is wrong": {"folder": {"$ref": {"block_document_id": "9d24bd16-9d02-4a0f-a0a7-000000000000"}}},
    "'folder' is missing": {},
}


@pytest.mark.parametrize("sentence", PARAMETERS_OF_A_RUN)
def test_parameters_of_a_run_are_checked_like_a_config(sentence):
    flow = SimpleNamespace(fn=tick)
    assert validate_parameters(flow, {"folder": "x", "seconds": "2"}, "here") == {"folder": "x", "seconds": 2.0}
    with pytest.raises(InputError, match=f"^here: {sentence}"):
        validate_parameters(flow, PARAMETERS_OF_A_RUN[sentence], "here")


def test_config_of_a_run_is_checked_like_a_file():
    flow = tokenmill_flows()["run"]
    wrong = {"config": {**CONFIG, "tokenise": {}}}
    with pytest.raises(InputError, match=r"unknown key 'config.tokenise'; did you mean 'tokenize'"):
        validate_parameters(flow, wrong, "here")
    made = validate_parameters(flow, {"config": CONFIG}, "here")
    assert made == {"config": parse_config(CONFIG, "here"), "rebuild": False, "label": Label()}
    wrong = {"config": CONFIG, "label": {"nmae": "x"}}
    with pytest.raises(InputError, match=r"unknown key 'label.nmae'; did you mean 'name'"):
        validate_parameters(flow, wrong, "here")


def test_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no file of schedules"):
        load_schedules(tmp_path / "nowhere.toml")


def test_serving_without_a_server_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(InputError, match="tokenmill up"):
        serve(SHIPPED, tmp_path)


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
