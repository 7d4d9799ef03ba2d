"""Server processes: started in the background, ended with all that they started."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple

from flows.home import NO_TELEMETRY
from flows.servers.health import LOOPBACK, answers
from flows.servers.logs import last_line_of, open_log
from flows.servers.server import PLACES, Server
from pipelines.errors import InputError

STARTING = 180  # seconds: a new database takes half a minute on a busy machine, an old one two


STOPPING = 15  # seconds between asking a server to end and ending it


# Starting and ending


def free_port(server: Server) -> None:
    end_orphans(server)
    if not is_free(server.port):
        raise InputError(
            f"Port {server.port}, meant for {server.name}, is taken by another program; end that, "
            f"or choose another port with {server.variable}."
        )


def spawn(server: Server) -> subprocess.Popen[bytes]:
    server.prepare()
    server.record.parent.mkdir(parents=True, exist_ok=True)
    with server.record.open("w") as record, open_log(server.log) as log:
        fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the server inherits this lock and keeps it
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", *server.command],
            env=environment_of(server),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[record.fileno()],
        )
        since = datetime.now(UTC).isoformat(timespec="seconds")
        json.dump({"pid": process.pid, "url": server.url, "since": since, "log": str(server.log)}, record)
    return process


def environment_of(server: Server) -> dict[str, str]:
    places = {name: value for name, value in server.environment.items() if name in PLACES}
    ours = {"PYTHONSAFEPATH": "1", **places}
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return {**NO_TELEMETRY, **server.environment, **inherited, **ours}  # what a person set, but for the place


def wait_until_healthy(server: Server, process: subprocess.Popen[bytes] | None = None) -> None:
    record = read_record(server)
    until = time.monotonic() + STARTING
    while record and time.monotonic() < until:
        if answers(record.url + server.health.removesuffix("/health")):
            return
        if process:
            process.poll()  # a dead child holds no lock, but would stay in the process table
        time.sleep(0.05)
        record = read_record(server)
    what = "did not answer in time" if record else "ended while it started"
    raise InputError(f"The {server.name} server {what} ({last_line_of(server.log)}); all of it is in {server.log}.")


def end_group(pid: int, gone: Callable[[], bool]) -> None:
    """Ask a process group to end, and end it if it does not."""
    _signal_group(pid, signal.SIGTERM)
    until = time.monotonic() + STOPPING
    while not gone() and time.monotonic() < until:
        time.sleep(0.05)
    _signal_group(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)  # if it was this very process that started it


def end_orphans(server: Server) -> None:
    """End what a server that died left behind: its group, if the group has members but no longer its first one."""
    try:
        pid = int(json.loads(server.record.read_text())["pid"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    if read_record(server) or _exists(pid):
        return  # it lives, or the number now belongs to another process
    until = time.monotonic() + 5
    while _signal_group(pid, signal.SIGKILL) and time.monotonic() < until:
        time.sleep(0.05)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _signal_group(pid: int, number: int) -> bool:
    """Send a signal to a process group; whether there was one."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


# Finding


class Record(NamedTuple):
    """What a living server that `up` started wrote down about itself."""

    pid: int
    url: str
    since: datetime
    log: Path


def read_record(server: Server) -> Record | None:
    """The record of a server, if the server is alive."""
    try:
        with server.record.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parse_record(server, file)
    except FileNotFoundError:
        pass
    return None


def is_dead(server: Server) -> bool:
    return read_record(server) is None


def _parse_record(server: Server, file: IO[str]) -> Record:
    for _ in range(50):  # the moment between taking the lock and writing the record
        file.seek(0)
        with contextlib.suppress(ValueError):
            found = json.loads(file.read())
            return Record(found["pid"], found["url"], datetime.fromisoformat(found["since"]), Path(found["log"]))
        time.sleep(0.02)
    raise InputError(f"The {server.name} server runs, but {server.record} does not say which; end it yourself.")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
