"""Which of Prefect's task runners works on the partitions of a step: the one that `TOKENMILL_RUNNER` names.

    threads[=N]      threads of this process (the default)
    processes[=N]    processes of this machine
    dask[=N]         a Dask cluster on this machine, started when the first partition comes
    dask=ADDRESS     a Dask cluster that is there already, whose workers see the same home folder

N is how many work side by side; by default, as many as there are processor cores.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from pipelines.errors import InputError

VARIABLE = "TOKENMILL_RUNNER"


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


def _threads(size: str) -> TaskRunner[Any]:
    return ThreadPoolTaskRunner(max_workers=int(size))


def _processes(size: str) -> TaskRunner[Any]:
    return ProcessPoolTaskRunner(max_workers=int(size), initializer=_belong_to, initargs=(os.getpid(),))


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
    """In a worker process: end with the run, however that ends, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
