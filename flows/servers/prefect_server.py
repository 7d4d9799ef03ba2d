"""A Prefect server to run flows against: a named one, the one of `up`, or one for a single run."""

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock

from flows.console import warn
from flows.current_folder import warn_of_settings
from flows.servers.health import LOOPBACK, check_named
from flows.servers.logs import last_line_of
from flows.servers.processes import end, find_started, start, wait_for, wait_until_healthy
from flows.servers.secret import Secret
from flows.servers.server import PREFECT_FILES, prefect, private_folder
from pipelines.errors import InputError
from pipelines.proxies import problems

END_WITH_PARENT = Path(__file__).with_name("end_with_parent.py")

_temporary: set[str] = set()


@contextlib.contextmanager
def prefect_server(home: Path | str, on_choice: Callable[[str], None] = lambda choice: None) -> Iterator[str]:
    """Provide a Prefect server to run flows against; yield the address of its API, which Prefect in this process uses.

    It is the first of these that exists: the server that `PREFECT_API_URL` names, the server that `tokenmill up`
    started, or a temporary one that ends with this context, or with this process if that is killed. Enter the context
    before importing prefect if possible. Settings that Prefect read earlier reach only some of its threads.

    Args:
        home: the home folder.
        on_choice: called with `named`, `up` or `temporary`, before a temporary server is started.

    Raises:
        InputError: the server does not answer or does not come up.
    """
    home = Path(home).absolute()
    (private_folder(home) / "prefect").mkdir(exist_ok=True)  # Prefect would complain that it cannot make it
    own = prefect(home, 0)
    warn_of_settings()
    for problem in problems:
        warn(problem)
    if "PREFECT_HOME" not in os.environ:
        files = {name: os.environ.get(name, file) for name, file in PREFECT_FILES.items()}
        os.environ.update(files, PREFECT_HOME=own.environment["PREFECT_HOME"])
        os.environ.pop("PREFECT_PROFILE", None)  # one of files that are not read
    if url := os.environ.get("PREFECT_API_URL"):
        on_choice("named")
        check_named("PREFECT_API_URL", url)
        yield url
    elif service := find_started(own):
        on_choice("up")
        wait_until_healthy(own)
        with _use(prefect_variables(f"{service.url}/api", own.secret)) as url:
            yield url
    else:
        on_choice("temporary")
        with _temporary_server(home, own.secret) as address, _use(prefect_variables(address, own.secret)) as url:
            try:
                yield url
            finally:
                send_events_and_logs()


@contextlib.contextmanager
def _temporary_server(home: Path, secret: Secret) -> Iterator[str]:
    mark = uuid4().hex
    try:
        with FileLock(private_folder(home) / "stack.lock"):  # two servers that create the same database damage it
            listener = socket.create_server((LOOPBACK, 0), backlog=2048)
            server = prefect(home, listener.getsockname()[1], "prefect-temporary")
            process = start(server, mark, [str(END_WITH_PARENT), str(os.getpid()), *server.command], [listener])
            if wait_for(f"{server.url}/api", secret, process.is_alive):
                raise InputError(
                    f"A temporary Prefect server did not come up ({last_line_of(server.log)}); see {server.log}."
                )
        address = f"{server.url}/api"
        _temporary.add(address)
        yield address
    finally:
        end(mark)


def is_temporary(address: str) -> bool:
    """Return whether an address is that of a server which ends with a run of this process."""
    return address in _temporary


def prefect_variables(url: str, secret: Secret) -> dict[str, str]:
    """Return the variables with which a program uses the Prefect server of a home."""
    return {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": secret.value}


@contextlib.contextmanager
def _use(variables: dict[str, str]) -> Iterator[str]:
    """Let Prefect in this process, and in the processes that it starts, use a server; yield its address."""
    before = {name: os.environ.get(name) for name in variables}
    with contextlib.ExitStack() as stack:
        os.environ.update(variables)
        stack.callback(_restore, before)
        if "prefect" in sys.modules:  # it has read its settings already
            from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

            settings = (PREFECT_API_URL, PREFECT_API_AUTH_STRING)
            stack.enter_context(temporary_settings({setting: variables[setting.name] for setting in settings}))
        yield variables["PREFECT_API_URL"]


def _restore(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def send_events_and_logs(seconds: float = 10.0) -> bool:
    """Let Prefect's client send what it still holds, in some seconds for each kind; return whether all was sent."""
    if "prefect" not in sys.modules:
        return True
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    def drain() -> list[set[Any]]:
        return [worker.drain_all(timeout=seconds)[1] for worker in (EventsWorker, APILogWorker)]  # type: ignore[index]

    with ThreadPoolExecutor(1) as pool:  # in a thread with an event loop, as in a notebook, it would return coroutines
        return not any(pool.submit(drain).result())
