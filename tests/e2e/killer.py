"""Run a chain until it is done and kill its runs on the way: `python killer.py HOME CONFIG [WHAT ...]`.

Each run is killed at one point, and the next resumes there and reaches a later point. WHAT chooses the points: a part
of the chain (data, training, evaluation) or STEP/MOMENT, such as `pretrain/checkpoint`. By default all points count.

The script imports everything once and forks a child for each run, so that a run takes about a second. The last line
that it prints holds the points of the kills as JSON.
"""

import functools
import importlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine, event
from sqlalchemy.orm import configure_mappers

import flows.flows
import flows.orchestration.conductor
import gpt.checkpoint
import gpt.weights
import pipelines.chain
from flows.home import Home
from flows.servers.mlflow_database import ensure_mlflow_database
from flows.tracking.tracker import Tracker
from pipelines.config import load_config
from pipelines.store.dataset import Dataset
from pipelines.store.step import Step, code_digest
from pipelines.store.store import Store

STEPS = {
    "flow": "data",
    "ingest": "data",
    "examples sort": "data",
    "examples answer": "data",
    "tokenize": "data",
    "sample": "data",
    "pretrain": "training",
    "evaluate-language": "evaluation",
    "lessons tiny-sort": "data",
    "finetune-classifier": "training",
    "evaluate-classifier": "evaluation",
    "lessons tiny-answer": "data",
    "finetune-assistant": "training",
    "evaluate-assistant": "evaluation",
    "report": "evaluation",
    "end": "evaluation",
}
"""The steps in the order of the chain, and their parts. `flow` is the start of a run, and `end` its summary."""

MOMENTS = {"start": 2, "read": 1, "compute": 1, "checkpoint": 6, "write": 2, "publish": 7, "record": 6}
"""The moments of a step at which a run is killed, in order, and the largest number of events to wait for.

start: the run writes to MLflow before the step. read: the step opens an input. compute: tenths of a second have
passed. checkpoint: the step opens, moves or removes a file below `checkpoints/`. write: the step writes a file of the
result. publish: the store flushes files, writes the manifest, renames the folder and cleans up. record: the run writes
the result to MLflow.
"""


class Point(NamedTuple):
    """The n-th event of a kind during a step."""

    step: str
    moment: str
    n: int


def plan(wanted: list[str]) -> list[Point]:
    """Return the wanted points in the order in which runs reach them; all points if `wanted` is empty."""
    chance = random.Random(6)
    points = []
    for step, part in STEPS.items():
        if step == "flow":
            points.append(Point(step, "record", chance.randint(2, 5)))
        elif step == "end":
            points.append(Point(step, "record", 1))
        else:
            for moment, most in MOMENTS.items():
                if moment == "checkpoint" and part == "training":
                    points += [Point(step, moment, chance.randint(1, most)) for _ in range(3)]
                elif moment not in ("checkpoint", "compute") or (moment == "compute" and part == "training"):
                    points.append(Point(step, moment, chance.randint(1, most)))
    return [point for point in points if not wanted or {STEPS[point.step], f"{point.step}/{point.moment}"} & {*wanted}]


def run_until_done(home: Path, config: Path, wanted: list[str]) -> list[Point]:
    """Run the chain once for each planned point and kill it there, then run it to its end. Return the points."""
    tracking = Home(home)
    run_in_child(home, lambda: ensure_mlflow_database(tracking.mlflow_uri, tracking.artifacts), None)
    import_everything()
    store = Store(home / "data")
    killed = []
    for point in [*plan(wanted), None]:
        at = run_in_child(home, lambda: flows.flows.FLOWS["run"](load_config(config)), point)
        if at is None:
            break
        killed.append(at)
        for dataset in store.list():
            assert store.verify(dataset) == [], dataset
    return killed


def import_everything() -> None:
    """Import what every child needs."""
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    configure_mappers()
    for step_type in pipelines.chain.STEPS.values():
        code_digest(step_type.packages)


def run_in_child(home: Path, run: Callable[[], Any], point: Point | None) -> Point | None:
    """Call `run` in a forked process group. Return the point at which it was killed, or None."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            let_the_clock_jump()
            if point:
                Killer(home, point, write).watch()
            run()
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    _, status, used = os.wait4(child, 0)
    with os.fdopen(read) as pipe:
        message = pipe.read()
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed"
    if not os.WIFSIGNALED(status):
        return None
    *at, what = json.loads(message)
    print(
        f"{' '.join(map(str, point or ()))}: killed at {' '.join(map(str, at))}, {what}",
        used.ru_utime + used.ru_stime,
        flush=True,
    )
    return Point(*at)


def let_the_clock_jump() -> None:
    """Move the clock of this process by hours, forward or back, every half second."""
    true, hours = time.time, (0, 5, -3)
    time.time = lambda: true() + 3600 * hours[int(2 * time.monotonic()) % len(hours)]


class Killer:
    """Kills this process group at a point, or just after it if the step ends before its n-th event.

    pipe: a descriptor that receives the point of the kill.
    """

    def __init__(self, home: Path, point: Point, pipe: int) -> None:
        self.home, self.point, self.pipe = str(home), point, pipe
        self.step, self.phase = "flow", "record"
        self.count = 0
        self.killing = threading.Lock()
        self.passed = {"flow"}

    def event(self, moment: str, what: str) -> None:
        """Count an event, and kill at the chosen one."""
        if self.step == self.point.step and moment == self.point.moment:
            self.count += 1
            if self.count >= self.point.n:
                self.kill(moment, what)
        elif self.point.step in self.passed and self.is_later(moment):
            self.kill(moment, what)

    def is_later(self, moment: str) -> bool:
        order = ["start", "work", "publish", "record"]
        phase = "work" if self.point.moment in ("read", "write", "compute", "checkpoint") else self.point.moment
        return self.step != self.point.step or order.index(self.phase) > order.index(phase)

    def kill(self, moment: str, what: str) -> None:
        if not self.killing.acquire(blocking=False):
            return  # another thread kills already
        os.write(self.pipe, json.dumps([self.step, moment, self.count, what.removeprefix(self.home)]).encode())
        os.killpg(0, signal.SIGKILL)

    def watch(self) -> None:
        """Follow the steps of the chain, the files that they use, and the writes to MLflow's database."""
        killer = self

        def before(owner: Any, name: str, note: Callable[..., None]) -> None:
            inner = getattr(owner, name)

            @functools.wraps(inner)
            def outer(*arguments: Any, **named: Any) -> Any:
                note(*arguments)
                return inner(*arguments, **named)

            setattr(owner, name, outer)

        def enter_step(conductor: Any, step: Step) -> None:
            several = step.type.name in ("examples", "lessons")
            killer.step, killer.phase = (f"{step.type.name} {step.name}" if several else step.type.name), "start"
            killer.passed.add(killer.step)

        def phase(name: str, step: str = "") -> Callable[..., None]:
            def enter(*_: Any) -> None:
                killer.phase, killer.step = name, step or killer.step
                killer.passed.add(killer.step)
                if name == "work" and killer.step == killer.point.step and killer.point.moment == "compute":
                    signal.signal(signal.SIGALRM, lambda *_: killer.kill("compute", "some time"))
                    signal.setitimer(signal.ITIMER_REAL, 0.1 * killer.point.n)

            return enter

        before(flows.orchestration.conductor.Conductor, "_perform", enter_step)
        before(flows.orchestration.conductor, "StepContext", phase("work"))
        before(Store, "_publish", phase("publish"))
        before(Tracker, "finish_step", phase("record"))
        before(Tracker, "summarise", phase("record", "end"))

        before(Dataset, "file", lambda dataset, name: killer.file("read", dataset.path / name))
        before(pa, "memory_map", lambda path, *_: killer.file("read", path))
        before(pa, "OSFile", lambda path, *_: killer.file("write", path))
        before(pq, "ParquetWriter", lambda path, *_: killer.file("write", path))
        for module in (gpt.checkpoint, gpt.weights):
            before(module, "save_file", lambda tensors, path, *_: killer.file("write", path))
        before(os, "fsync", lambda descriptor: killer.file("write", f"/proc/self/fd/{descriptor}"))

        def audit(name: str, arguments: tuple[Any, ...]) -> None:
            if name == "open" and isinstance(arguments[0], str | Path):
                reads = not arguments[2] & (os.O_WRONLY | os.O_RDWR)
                killer.file("read" if reads else "write", arguments[0])
            elif name in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
                killer.file("write", arguments[0])

        def execute(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith(("INSERT", "UPDATE", "DELETE")):
                killer.event("record" if killer.phase == "record" else "start", statement.split("(")[0])

        sys.addaudithook(audit)
        event.listen(Engine, "before_cursor_execute", execute)

    def file(self, what: str, path: Any) -> None:
        path = os.path.realpath(path) if str(path).startswith("/proc/self") else str(path)
        others = ("/mlruns/", "/.tokenmill/", "/.locks/", "/.intact/")
        if not path.startswith(self.home) or any(folder in path for folder in others):
            return
        if self.phase == "publish":
            self.event("publish", path)
        elif self.phase == "work":
            self.event("checkpoint" if "/checkpoints" in path else what, path)


if __name__ == "__main__":
    print(json.dumps(run_until_done(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
