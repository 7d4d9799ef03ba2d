"""Which of Prefect's task runners works on the partitions of a step: the one that `TOKENMILL_RUNNER` names.

    threads[=N]      threads of this process (the default)
    processes[=N]    processes of this machine
    dask[=N]         a Dask cluster on this machine, started when the first partition comes
    dask=ADDRESS     a Dask cluster that is there already, whose workers see the same home folder

N is how many work side by side; by default, as many as there are processor cores.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.futures import as_completed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from pipelines.errors import InputError

VARIABLE = "TOKENMILL_RUNNER"


LONG = 30.0  # seconds on threads, for which processes would have been worth their start


def task_runner(setting: str = "") -> TaskRunner[Any]:
    """The task runner of a setting; by default, of the environment's.

    Raises:
        InputError: it names none, or one whose package is not installed.
    """
    setting = setting or os.environ.get(VARIABLE) or "threads"
    name, _, size = setting.partition("=")
    make, is_number = RUNNERS.get(name), not size or (size.isdecimal() and int(size) > 0)
    if not make or not (is_number or (make is _dask and ":" in size)):
        raise InputError(
            f"{VARIABLE}={setting!r} is no task runner; choose threads, processes or dask, "
            "with =N behind it for N workers, or dask=ADDRESS."
        )
    return make(size or str(os.cpu_count() or 1))


def map_tasks(
    function: Callable[[Any], Any], items: Iterable[Any], when_done: Callable[[], None] = lambda: None
) -> list[Any]:
    """Run a step's partitions as mapped Prefect tasks; a single one is simply called.

    Args:
        when_done: called as often as an item is done, in whichever order.
    """
    items, began = list(items), time.monotonic()
    if len(items) < 2:
        return [function(item) for item in items]
    mapped = task(cache_policy=NO_CACHE, persist_result=False, tags=["tokenmill", "partition"])(function)
    with _light_luggage():
        futures = mapped.map(items)
        try:
            for future in as_completed(list(futures)):
                future.result()  # raises as soon as one has failed
                when_done()
        except Exception:
            _let_end(futures)
            raise
        _tell_of_processes(time.monotonic() - began)
        return list(futures.result())


def _tell_of_processes(seconds: float) -> None:
    context = FlowRunContext.get()
    on_threads = context is not None and isinstance(context.task_runner, ThreadPoolTaskRunner)
    if on_threads and seconds > LONG and VARIABLE not in os.environ and (os.cpu_count() or 1) > 1:
        from flows.console import say  # which worker processes need not import

        say(f"{VARIABLE}=processes is faster for so much work: threads wait for each other.")


def _let_end(futures: Iterable[Any]) -> None:
    """No more of them begin, and those that have begun end: else a step that is tried again would meet them."""
    for future in futures:
        future.wrapped_future.cancel()
    for future in futures:
        with suppress(Exception):
            future.wrapped_future.result()


@contextmanager
def _light_luggage() -> Iterator[None]:
    """Prefect sends each task's flow and outer task along to a worker process. Ours would make it import PyTorch and
    MLflow, which takes longer than many a partition; these stand in for them, under the same run ids.
    """
    flow_run, task_run = FlowRunContext.get(), TaskRunContext.get()
    with ExitStack() as stack:
        if flow_run:
            stack.enter_context(flow_run.model_copy(update={"flow": _stand_in_flow, "parameters": {}}))
        if task_run:
            stack.enter_context(task_run.model_copy(update={"task": _stand_in_task, "parameters": {}}))
        yield


@flow
def _stand_in_flow() -> None:
    """Never run."""


@task
def _stand_in_task() -> None:
    """Never run."""


def _threads(size: str) -> TaskRunner[Any]:
    return ThreadPoolTaskRunner(max_workers=int(size))


class _Processes(ProcessPoolTaskRunner):
    """Starts its processes with the flow and not with its first partition: they import while sources are hashed."""

    def __enter__(self) -> Self:
        super().__enter__()
        assert self._executor
        for _ in range(self._max_workers):
            self._executor.submit(os.getpid)
        return self


def _processes(size: str) -> TaskRunner[Any]:
    return _Processes(max_workers=int(size), initializer=_belong_to, initargs=(os.getpid(),))


def _dask(size: str) -> TaskRunner[Any]:
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError:
        raise InputError(f"{VARIABLE}=dask needs Dask; install it with: pip install 'tokenmill[dask]'") from None
    if not size.isdecimal():
        return DaskTaskRunner(address=size)
    # Whoever reaches a scheduler runs code on it, so this one speaks TLS with keys that only this process has.
    alone = {"host": "127.0.0.1", "dashboard_address": None, "security": True}
    return DaskTaskRunner(cluster_kwargs={"n_workers": int(size), "threads_per_worker": 1, **alone})


RUNNERS: dict[str, Callable[[str], TaskRunner[Any]]] = {"threads": _threads, "processes": _processes, "dask": _dask}


def _belong_to(parent: int) -> None:
    """In a worker process: end with the run, however that ends, and leave Ctrl-C to it. Also import what it will do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    importlib.import_module("pipelines.corpus.ingest.ingest")
    importlib.import_module("pipelines.tokens.tokenize")
