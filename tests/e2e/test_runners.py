"""Ingest and tokenize on each of Prefect's task runners: who works, and how many of them, changes no byte."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from flows.orchestration.task_runners import task_runner
from pipelines.errors import InputError

RUNNERS = ("threads=2", "processes=2", "dask=2")

# Everything is imported once and one server serves all; homes are set between the flows.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
from flows.servers.prefect_server import prefect_server

def work(item):
    folder, number, failing = item
    (folder / f"{number}.begun").touch()
    time.sleep(0.05 if number == failing else 0.4)
    (folder / f"{number}.ended").touch()
    if number == failing:
        raise OSError("the line is dead")
    return number

def share_out(runner, folder, failing):
    from prefect import flow
    from flows.orchestration import task_runners as table
    def mapped():
        done, folder_ = [], folder / f"{runner} {failing}"
        folder_.mkdir(parents=True)
        try:
            found = table.map_tasks(work, [(folder_, number, failing) for number in range(8)], lambda: done.append(1))
        except OSError as error:
            found = str(error)
        begun, ended = (len(list(folder_.glob(f"*.{what}"))) for what in ("begun", "ended"))
        print(json.dumps({"found": found, "done": len(done), "begun": begun, "ended": ended}))
    flow(mapped, task_runner=table.task_runner(runner), persist_result=False)()

def main():
    home, config, *runners = sys.argv[1:]
    with prefect_server(home):
        from flows.orchestration import task_runners as table
        from flows.flows import FLOWS
        from flows.home import Home
        from pipelines.config import load_config
        for number, runner in enumerate(runners):
            os.environ |= {"TOKENMILL_HOME": f"{home}/{number}", "TOKENMILL_RUNNER": runner}
            chosen = FLOWS["tokenize"].with_options(task_runner=table.task_runner())
            outcomes = chosen(load_config(config))
            made = {str(o.dataset): o.dataset.manifest.files for o in outcomes if o.step in ("ingest", "tokenize")}
            print(json.dumps(made, default=dict))
            if "://" in runner:
                from distributed import Client
                steps = ("pipelines.corpus.ingest.ingest", "pipelines.tokens.tokenize")
                with Client(runner.removeprefix("dask=")) as client:
                    print(json.dumps(list(client.run(lambda: [step in sys.modules for step in steps]).values())))
        del os.environ["TOKENMILL_RUNNER"]
        table.LONG = 0.0
        for runner in ("threads=2", "processes=2"):
            for failing in (-1, 1):
                share_out(runner, Path(home) / "shared-out", failing)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def cluster(place: Any) -> Iterator[str]:
    """The address of a Dask scheduler with two workers, each a process of its own, as people start them by hand."""
    pytest.importorskip("prefect_dask", reason="Dask is not installed; the extra `dask` brings it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    here = ["--host", "127.0.0.1", "--no-dashboard"]
    worker = ["worker", address, *here, "--nthreads", "1", "--no-nanny"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments],
            env=place.environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=place.home,
            stderr=subprocess.DEVNULL,
        )
        for arguments in (["scheduler", *here, "--port", address.rpartition(":")[2]], worker, worker)
    ]
    try:
        yield address
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_bytes_are_the_same_on_threads_processes_and_dask(place: Any, cluster: str, tmp_path: Path) -> None:
    text = place.config.read_text().replace("[ingest]", "[ingest]\npartition_bytes = 12000")
    place.config.write_text(text)
    one_database = f"sqlite:///{place.home}/mlflow.db"  # making one takes longer than all of this
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(place.home), str(place.config), *RUNNERS, f"dask={cluster}"],
        env=place.environment | {"PYTHONPATH": str(Path(__file__).parents[2]), "MLFLOW_TRACKING_URI": one_database},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    *made, imported = lines[:-4]
    assert len(made) == len(RUNNERS) + 1 and len(made[0]) == 2
    assert all(each == made[0] for each in made)
    corpus = next(files for name, files in made[0].items() if name.startswith("corpus/"))
    assert sum(name.startswith("documents/") for name in corpus) > 4, "there was something to share out"
    assert imported == [[True, True]] * 2, "both workers of the cluster worked on both steps"
    assert done.stderr.count("TOKENMILL_RUNNER=processes is faster for so much work") == 1, "and only on threads"
    for well, failed in (lines[-4:-2], lines[-2:]):
        assert well == {"found": list(range(8)), "done": 8, "begun": 8, "ended": 8}
        assert failed["found"] == "the line is dead", failed
        assert failed["begun"] == failed["ended"] < 8, "when it is told, no partition is worked on, and no other begins"


def test_a_setting_names_a_runner_and_how_many_work() -> None:
    assert isinstance(task_runner(), ThreadPoolTaskRunner)
    assert task_runner("threads")._max_workers == os.cpu_count()
    processes = task_runner("processes=3")
    assert isinstance(processes, ProcessPoolTaskRunner) and processes._max_workers == 3
    for wrong in ("thread", "threads=0", "processes=x", "dask=somewhere", "ray=2", "threads=2:3"):
        with pytest.raises(InputError, match="TOKENMILL_RUNNER"):
            task_runner(wrong)


def test_processes_start_with_the_flow() -> None:
    before = set(multiprocessing.active_children())
    with task_runner("processes=2"):
        assert len(set(multiprocessing.active_children()) - before) == 2
    assert set(multiprocessing.active_children()) == before


def test_a_dask_cluster_that_is_there_is_named_by_its_address() -> None:
    pytest.importorskip("prefect_dask", reason="Dask is not installed; the extra `dask` brings it")
    assert task_runner("dask=tcp://10.0.0.1:8786").address == "tcp://10.0.0.1:8786"
    assert task_runner("dask=2").cluster_kwargs["n_workers"] == 2
