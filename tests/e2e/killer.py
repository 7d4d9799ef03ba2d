"""Runs a chain that is killed again and again, `python killer.py HOME CONFIG KILLS`, until a run comes to its end.

Imports everything once and forks a child for each run, so that a run costs a second or two.
"""

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.store import Store

WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.truncate", "shutil.rmtree"}
CALLS, SECONDS = 800, 7.0  # somewhat less than the whole chain takes


def run_until_done(home: Path, config: Path, kills: int) -> None:
    """Run the chain, killed after ever so many calls or so much time, until a run comes to its end."""
    from flows.chain import FLOWS
    from flows.home import Home
    from flows.stack import ensure_mlflow_database
    from pipelines.config import load_config

    # Made here, since it takes longer than the time between two kills; it is whole or absent by its own tests.
    tracking = Home(home)
    run_in_child(home, lambda: ensure_mlflow_database(tracking.mlflow_uri, tracking.artifacts), None, None)
    store = Store(home / "data")
    chance = random.Random(kills)
    patience, killed, before = 1.0, 0, 0
    while True:
        calls = round(chance.uniform(0.2, 1.8) * patience * CALLS / kills) if killed % 3 else None
        seconds = chance.uniform(0.2, 1.8) * patience * SECONDS / kills if not calls else None
        place = run_in_child(home, lambda: FLOWS["run"](load_config(config)), calls, seconds)
        if place == "end":
            break
        killed += 1
        published = store.list()
        print(f"killed after {calls or seconds} at {place}; {len(published)} are published", flush=True)
        for dataset in published:
            assert store.verify(dataset) == [], dataset
        # A kill that comes too early each time would let no step be finished.
        patience = 1.0 if len(published) > before else patience * 1.5
        before = len(published)
    print(json.dumps({"kills": killed}))


def run_in_child(home: Path, work: Callable[[], Any], calls: int | None, seconds: float | None) -> str:
    """Run in a forked process group that is killed; returns "end", or the call that it was killed at."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            if calls:
                kill_at_call(home, calls, write)
            if seconds:
                signal.setitimer(signal.ITIMER_REAL, seconds)  # nobody handles SIGALRM, so it kills at once
            work()
            os.write(write, b"end")
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        place = pipe.read()
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed"
    return place or "some time"


def kill_at_call(home: Path, calls: int, tell: int) -> None:
    """Kill this process group at its n-th call to the file system below home, or statement to MLflow's database."""
    from sqlalchemy import Engine, event

    count = 0

    def another(what: str) -> None:
        nonlocal count
        count += 1
        if count == calls:
            os.write(tell, what.encode())
            os.killpg(0, signal.SIGKILL)

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        if name in WATCHED and arguments and str(arguments[0]).startswith(str(home)):
            another(f"{name} {arguments[0]}")

    def execute(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            another(statement.split("(")[0])

    sys.addaudithook(audit)
    event.listen(Engine, "before_cursor_execute", execute)


if __name__ == "__main__":
    run_until_done(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
