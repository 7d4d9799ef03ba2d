"""Ingest and tokenize give the same bytes on each of Prefect's task runners, for any number of workers."""

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from flows.orchestration.task_runners import task_runner
from gpt.cores import cores
from pipelines.errors import InputError

# One process and one server run all flows, to save their starts. Each flow has its own home.
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

def map_numbers(runner, folder, failing):
    from prefect import flow
    from flows.orchestration import task_runners as table
    def mapped():
        finished, own = [], folder / f"{runner} {failing}"
        own.mkdir(parents=True)
        try:
            found = table.map_tasks(work, [(own, number, failing) for number in range(8)], lambda: finished.append(1))
        except OSError as error:
            found = str(error)
        begun, ended = (len(list(own.glob(f"*.{what}"))) for what in ("begun", "ended"))
        print(json.dumps({"found": found, "done": len(finished), "begun": begun, "ended": ended}))
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
                steps = ("pipelines.corpus.ingest.read", "pipelines.tokens.tokenize")
                with Client(runner.removeprefix("dask=")) as client:
                    print(json.dumps(list(client.run(lambda: [step in sys.modules for step in steps]).values())))
        del os.environ["TOKENMILL_RUNNER"]
        table.LONG = 0.0
        for runner in (each for each in runners if not each.startswith("dask")):
            for failing in (-1, 1):
                map_numbers(runner, Path(home) / "mapped", failing)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def cluster(place: Any, free_port: Callable[[], int]) -> Iterator[str]:
    """Start a Dask scheduler and two worker processes, and yield the scheduler's address."""
    pytest.importorskip("prefect_dask", reason="Dask is not installed; the extra `dask` brings it")
    address = f"tcp://127.0.0.1:{free_port()}"
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


def run_on(place: Any, tmp_path: Path, *runners: str) -> tuple[list[Any], str]:
    """Run SCRIPT with these runners. Return the JSON lines that it prints, and its errors."""
    text = place.config.read_text().replace("[ingest]", "[ingest]\npartition_bytes = 12000")
    place.config.write_text(text)
    database = f"sqlite:///{place.home}/mlflow.db"  # one for all homes: to create one takes longer than the flows
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(place.home), str(place.config), *runners],
        env=place.environment | {"PYTHONPATH": str(Path(__file__).parents[2]), "MLFLOW_TRACKING_URI": database},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))], done.stderr


@pytest.mark.slow
def test_threads_and_processes_give_the_same_bytes(place: Any, tmp_path: Path) -> None:
    lines, errors = run_on(place, tmp_path, "threads=2", "processes=2")
    threads, processes, *mapped = lines
    assert threads == processes and len(threads) == 2
    corpus = next(files for name, files in threads.items() if name.startswith("corpus/"))
    assert sum(name.startswith("documents/") for name in corpus) > 4, "there are several parts to distribute"
    assert errors.count("TOKENMILL_RUNNER=processes is faster for so much work") == 1, "and only on threads"
    assert len(mapped) == 4
    for complete, failed in (mapped[:2], mapped[2:]):
        assert complete == {"found": list(range(8)), "done": 8, "begun": 8, "ended": 8}
        assert failed["found"] == "the line is dead", failed
        assert failed["begun"] == failed["ended"] < 8, "running parts end before the error is raised, no other begins"


@pytest.mark.slow
def test_dask_gives_the_same_bytes_as_threads(place: Any, cluster: str, tmp_path: Path) -> None:
    lines, _ = run_on(place, tmp_path, "threads=2", "dask=2", f"dask={cluster}")
    threads, local, remote, imported, *_ = lines
    assert threads == local == remote and len(threads) == 2
    assert imported == [[True, True]] * 2, "both workers of the cluster worked on both steps"


def test_setting_names_a_runner_and_its_workers() -> None:
    assert isinstance(task_runner(), ThreadPoolTaskRunner)
    assert task_runner("threads")._max_workers == cores()
    processes = task_runner("processes=3")
    assert isinstance(processes, ProcessPoolTaskRunner) and processes._max_workers == 3
    for wrong in ("thread", "threads=0", "processes=x", "dask=somewhere", "ray=2", "threads=2:3"):
        with pytest.raises(InputError, match="TOKENMILL_RUNNER"):
            task_runner(wrong)


def test_worker_processes_live_as_long_as_the_flow() -> None:
    before = set(multiprocessing.active_children())
    with task_runner("processes=2"):
        assert len(set(multiprocessing.active_children()) - before) == 2
    assert set(multiprocessing.active_children()) == before


def test_running_dask_cluster_is_named_by_its_address() -> None:
    pytest.importorskip("prefect_dask", reason="Dask is not installed; the extra `dask` brings it")
    assert task_runner("dask=tcp://10.0.0.1:8786").address == "tcp://10.0.0.1:8786"
    assert task_runner("dask=2").cluster_kwargs["n_workers"] == 2
