"""Measure the cost of a partition as a mapped Prefect task, beside a plain call of its function.

A flow maps a function that does almost nothing over many items, with its own Prefect server. tokenmill's mapped tasks
and Prefect's plain `task(function).map(items)` take turns.

    python -m benchmarks.mapped_task [--tasks 200]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.servers.prefect_server import prefect_server
from pipelines.store.step import map_in_turn


def square(number: int) -> int:
    """Do the work of a partition."""
    return number * number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200)
    options = parser.parse_args()
    os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"
    os.environ.pop("PREFECT_API_URL", None)
    with tempfile.TemporaryDirectory() as home, prefect_server(Path(home)):
        from prefect import flow, task

        from flows.orchestration.task_runners import map_tasks, task_runner

        @flow(task_runner=task_runner("threads"), persist_result=False)
        def ours(tasks: int) -> float:
            return _seconds(lambda: map_tasks(square, range(tasks)))

        @flow(task_runner=task_runner("threads"))
        def bare(tasks: int) -> float:
            return _seconds(lambda: task(square).map(range(tasks)).result())

        ways = {"bare": bare, "ours": ours}
        for mapped in ways.values():
            mapped(2)  # the first call has extra costs
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(5):
            for way, mapped in ways.items():
                times[way].append(mapped(options.tasks) / options.tasks)
    called = _seconds(lambda: map_in_turn(square, range(options.tasks))) / options.tasks
    each, plain = min(times["ours"]), min(times["bare"])
    print(f"a call                {called * 1e6:9.1f} µs")
    print(f"Prefect's own task    {plain * 1e3:9.1f} ms")
    print(f"a mapped task         {each * 1e3:9.1f} ms   {each / plain:.2f} times that, or {each / called:,.0f} calls")
    print(f"so a partition's work should take {each * 100:.1f} s or more, for tasks to cost 1% of it")


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
