"""A Prefect server to run flows against: a named one, the one of `up`, or one for a single run."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from filelock import FileLock

from flows.home import NO_TELEMETRY
from flows.servers.health import LOOPBACK, answers
from flows.servers.logs import last_line_of, open_log
from flows.servers.processes import STARTING, end_group, environment_of, read_record, wait_until_healthy
from flows.servers.server import prefect, prefect_home, private_folder
from pipelines.errors import InputError

Choice = Literal["named", "up", "temporary"]


TETHERED = Path(__file__).with_name("tethered.py")


@contextlib.contextmanager
def prefect_server(home: Path | str, tell: Callable[[Choice], None] = lambda choice: None) -> Iterator[str]:
    """A Prefect server to run flows against; yields the address of its API, which Prefect in this process then uses.

    It is the server that `PREFECT_API_URL` names, or else the one that `tokenmill up` started, or else one that
    lives as long as this context, or this process if that is killed. Enter it before importing prefect if you can:
    settings that Prefect read earlier reach the threads it starts itself only in part.

    Args:
        home: the home folder.
        tell: told which of the three it is, before a temporary one is waited for.

    Raises:
        InputError: the server does not answer or does not come up.
    """
    home = Path(home).absolute()
    (private_folder(home) / "prefect").mkdir(exist_ok=True)  # Prefect would complain that it cannot make it
    for name, value in {**NO_TELEMETRY, "PREFECT_HOME": str(prefect_home(home))}.items():
        os.environ.setdefault(name, value)
    own = prefect(home, 0)
    if url := os.environ.get("PREFECT_API_URL"):
        tell("named")
        if not any(answers(url, attempt) for attempt in range(3)):
            raise InputError(f"Nothing answers at PREFECT_API_URL={url}; start that server, or unset the variable.")
        yield url
    elif record := read_record(own):
        tell("up")
        wait_until_healthy(own)
        with _prefect_uses(f"{record.url}/api"):
            yield f"{record.url}/api"
    else:
        tell("temporary")
        with _temporary_prefect(home) as url, _prefect_uses(url):
            try:
                yield url
            finally:
                _send_what_prefect_has_to_say()


# A Prefect server for one run


@contextlib.contextmanager
def _temporary_prefect(home: Path) -> Iterator[str]:
    log_path = home / ".tokenmill" / "logs" / "prefect-temporary.log"
    with FileLock(private_folder(home) / "stack.lock"):  # two servers that make the same new database at once ruin it
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            server = prefect(home, probe.getsockname()[1])
        options = ["--no-ui", "--no-scheduler", "--no-late-runs"]
        with open_log(log_path) as log:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, str(TETHERED), str(os.getpid()), *server.command, *options],
                env=environment_of(server),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # or Ctrl-C would end it before the run has told it so
            )
        try:
            until = time.monotonic() + STARTING
            while not answers(f"{server.url}/api"):
                if process.poll() is not None or time.monotonic() > until:
                    raise InputError(
                        f"A temporary Prefect server did not come up ({last_line_of(log_path)}); see {log_path}."
                    )
                time.sleep(0.05)
        except BaseException:
            end_group(process.pid, gone=lambda: process.poll() is not None)
            raise
    try:
        yield f"{server.url}/api"
    finally:
        end_group(process.pid, gone=lambda: process.poll() is not None)


@contextlib.contextmanager
def _prefect_uses(url: str) -> Iterator[None]:
    os.environ["PREFECT_API_URL"] = url
    try:
        with contextlib.ExitStack() as stack:
            if "prefect" in sys.modules:  # it has read its settings already
                from prefect.settings import PREFECT_API_URL, temporary_settings

                stack.enter_context(temporary_settings({PREFECT_API_URL: url}))
            yield
    finally:
        del os.environ["PREFECT_API_URL"]


def _send_what_prefect_has_to_say() -> None:
    """Let Prefect's client send the events and log lines that it still holds, while there is a server to take them."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=10)
