"""The task runner of Prefect that works on the partitions of a step, as `TOKENMILL_RUNNER` names it.

    threads[=N]      threads of this process (the default)
    processes[=N]    processes of this machine
    dask[=N]         a Dask cluster on this machine, started with the first partition
    dask=ADDRESS     a running Dask cluster, whose workers see the same home folder

N is the number of workers; by default, the number of processor cores.
"""

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

from flows.terminal import show_control_characters
from pipelines.errors import InputError
from pipelines.store.processes import ProcessId

VARIABLE = "TOKENMILL_RUNNER"
LONG = 30.0  # seconds on threads from which processes would have been faster, in spite of their start


def task_runner(setting: str = "") -> TaskRunner[Any]:
    """Return the task runner of a setting, by default of `TOKENMILL_RUNNER`.

    Raises:
        InputError: the setting names no task runner, or one whose package is not installed.
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


def uncached_task(**settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return Prefect's `task` decorator for work whose result the store keeps, not Prefect."""
    make: Any = task(cache_policy=NO_CACHE, persist_result=False, **settings)
    return make


def map_tasks(
    function: Callable[[Any], Any], items: Iterable[Any], when_done: Callable[[], None] = lambda: None
) -> list[Any]:
    """Run a step's partitions as mapped Prefect tasks; a single one is called directly.

    Args:
        when_done: called once per finished item, in any order.
    """
    items, began = list(items), time.monotonic()
    if len(items) < 2:
        done = [function(item) for item in items]
        for _ in done:
            when_done()
        return done
    mapped: Any = uncached_task(tags=["tokenmill", "partition"])(function)
    with _slim_context():
        futures = mapped.map(items)
        try:
            for future in as_completed(list(futures)):
                future.result()  # raises as soon as one has failed
                when_done()
        except Exception:
            _cancel(futures)
            raise
        _suggest_processes(time.monotonic() - began)
        return list(futures.result())


def _suggest_processes(seconds: float) -> None:
    context = FlowRunContext.get()
    on_threads = context is not None and isinstance(context.task_runner, ThreadPoolTaskRunner)
    if on_threads and seconds > LONG and VARIABLE not in os.environ and (os.cpu_count() or 1) > 1:
        from flows.console import say  # which worker processes need not import

        say(f"{VARIABLE}=processes is faster for so much work: threads wait for each other.")


def _cancel(futures: Iterable[Any]) -> None:
    """Start no more of the futures, and wait for those that have started: a retry of the step must not meet them."""
    for future in futures:
        future.wrapped_future.cancel()
    for future in futures:
        with suppress(Exception):
            future.wrapped_future.result()


@contextmanager
def _slim_context() -> Iterator[None]:
    """Replace the flow and the outer task that Prefect sends with each task to a worker process.

    With ours, the worker would import PyTorch and MLflow, which takes longer than most partitions. The replacements
    have the same run ids.
    """
    flow_run, task_run = FlowRunContext.get(), TaskRunContext.get()
    with ExitStack() as stack:
        if flow_run:
            stack.enter_context(flow_run.model_copy(update={"flow": _empty_flow, "parameters": {}}))
        if task_run:
            stack.enter_context(task_run.model_copy(update={"task": _empty_task, "parameters": {}}))
        yield


@flow
def _empty_flow() -> None:
    """Never run."""


@task
def _empty_task() -> None:
    """Never run."""


def _threads(size: str) -> TaskRunner[Any]:
    return ThreadPoolTaskRunner(max_workers=int(size))


class _Processes(ProcessPoolTaskRunner):
    """Starts its processes with the flow, so that they import modules while sources are hashed."""

    def __enter__(self) -> Self:
        super().__enter__()
        assert self._executor
        for _ in range(self._max_workers):
            self._executor.submit(os.getpid)
        return self


def _processes(size: str) -> TaskRunner[Any]:
    return _Processes(max_workers=int(size), initializer=_end_with, initargs=(ProcessId.of_this(),))


def _dask(size: str) -> TaskRunner[Any]:
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError:
        raise InputError(f"{VARIABLE}=dask needs Dask; install it with: pip install 'tokenmill[dask]'") from None
    if not size.isdecimal():
        return DaskTaskRunner(address=size)
    # Everyone who reaches a scheduler can run code on it, so this one uses TLS with keys that only this process has.
    alone = {"host": "127.0.0.1", "dashboard_address": None, "security": True}
    return DaskTaskRunner(cluster_kwargs={"n_workers": int(size), "threads_per_worker": 1, **alone})


RUNNERS: dict[str, Callable[[str], TaskRunner[Any]]] = {"threads": _threads, "processes": _processes, "dask": _dask}


def _end_with(run: ProcessId) -> None:
    """Make a worker process end with the run's process and leave Ctrl-C to it; import the code that it will run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    show_control_characters()

    def watch() -> None:
        while run.is_alive():
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    importlib.import_module("pipelines.corpus.ingest.ingest")
    importlib.import_module("pipelines.tokens.tokenize")
