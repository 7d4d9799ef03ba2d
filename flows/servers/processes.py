"""Server processes: started in the background, found again by another process, ended with all that they started.

A process is known by its number and start time, so a stale record or a reused number is never taken for a server.
Every process of a server has a mark in its environment, by which it is found even after its parent has ended.
"""

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from flows.servers.health import LOOPBACK, answers
from flows.servers.logs import last_line_of, open_log
from flows.servers.reach import Reach
from flows.servers.secret import Secret
from flows.servers.server import LOCAL, PLACES, Server, empty_folder, port_variable
from pipelines.errors import InputError
from pipelines.store.files import write_json
from pipelines.store.processes import ProcessId

STARTING = 180  # seconds: a new database takes half a minute on a busy machine, an old one two


STOPPING = 15  # seconds between asking a server to end and killing it


MARK = "TOKENMILL_SERVER"
"""Environment variable of a server's processes. They inherit it from each other; its value names the server."""

NOT_INHERITED = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_SERVER_API_BASE_PATH")
"""Variables that are meant for another Prefect server than ours."""


@dataclass(frozen=True)
class Service:
    """The state of a server.

    running: whether it answers. ours: whether `up` started it; then `down` ends it, and pid, since, log and reach are
    known. Otherwise the environment names it, or it does not run.
    """

    name: str
    url: str
    running: bool
    ours: bool
    pid: int | None = None
    since: datetime | None = None
    log: Path | None = None
    reach: Reach = LOCAL


def find_started(server: Server) -> Service | None:
    """Return the state of a server that `up` started and whose process runs, without waiting for an answer."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        found = json.loads(server.record.read_text())
        if ProcessId(found["pid"], found["started"]).is_alive():
            since = datetime.fromisoformat(found["since"])
            names = Reach(found.get("host", LOOPBACK), tuple(found.get("names", ())))
            return Service(server.name, found["url"], True, True, found["pid"], since, server.log, names)
    return None


def check_reach(server: Server) -> None:
    """Raise an InputError if a server that `up` started runs with another reach than the one asked for now."""
    if (service := find_started(server)) and service.reach != server.reach:
        raise InputError(
            f"The {server.name} server at {service.url} was started with other addresses or names; "
            "end it with `tokenmill down`, then start it again."
        )


def check_secret(server: Server) -> None:
    """Raise an InputError if a server that `up` started runs without the home's present secret."""
    if (service := find_started(server)) and json.loads(server.record.read_text()).get("secret") != server.secret.id:
        raise InputError(
            f"The {server.name} server at {service.url} asks for no secret or for an older one; "
            "end it with `tokenmill down`, then start it again with `tokenmill up`."
        )


def start(server: Server, mark: str, arguments: list[str], listeners: Sequence[socket.socket]) -> ProcessId:
    """Start Python in the background with the environment, the mark, the log and the listening sockets of a server."""
    server.prepare()
    numbers = [listener.fileno() for listener in listeners]
    with open_log(server.log) as log, contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, *arguments, ",".join(map(str, numbers))],
            pass_fds=numbers,
            env={**_environment_of(server), MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=empty_folder(server.home),
            start_new_session=True,  # or Ctrl-C would end it before a run has sent it the last states
        )
    return ProcessId.of(psutil.Process(process.pid))


def start_recorded(server: Server, listeners: Sequence[socket.socket]) -> None:
    """Start a server that outlives this process, and write down which process it is and which secret it asks for."""
    secret = server.secret.id
    process = start(server, str(server.record), ["-m", *server.command], listeners)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"url": server.url, "since": since, "secret": secret, **server.reach._asdict()}
    write_json(server.record, {**process._asdict(), **facts})


def end_recorded(server: Server) -> None:
    """End a server that `start_recorded` started, or the processes that it left behind when it died."""
    end(str(server.record))
    server.record.unlink(missing_ok=True)


def end(mark: str) -> None:
    """Ask all processes with a mark to end; kill those that do not within `STOPPING` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in _find(mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        until = time.monotonic() + STOPPING
        while _find(mark) and time.monotonic() < until:
            time.sleep(0.05)


def listen(server: Server) -> list[socket.socket]:
    """Return sockets that listen on a server's port, at each address of its reach.

    The server gets them as it starts. If it opened the port itself, another user could be faster, and would be sent the
    secret.

    Raises:
        InputError: another program listens there, or the address is not one of this machine.
    """
    families = {address: socket.AF_INET6 if ":" in address else socket.AF_INET for address in server.reach.addresses}
    try:
        return [
            socket.create_server((address, server.port), family=family, backlog=2048)
            for address, family in families.items()
        ]
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise InputError(
                f"This machine has no address {server.reach.host}; --host takes one of its own, or 0.0.0.0 for all."
            ) from None
        raise InputError(
            f"Port {server.port}, meant for {server.name}, cannot be used ({error.strerror}); end the program that "
            f"uses it, or choose another port with {port_variable(server.name)}."
        ) from None


def wait_until_healthy(server: Server) -> None:
    """Wait until a server that `up` started answers.

    Raises:
        InputError: it ended, or does not answer in time.
    """
    url = (find_started(server) or server).url + server.api
    if why := wait_for(url, server.secret, lambda: find_started(server) is not None):
        raise InputError(f"The {server.name} server {why} ({last_line_of(server.log)}); all of it is in {server.log}.")


def wait_for(url: str, secret: Secret, is_alive: Callable[[], bool]) -> str | None:
    """Wait until a server answers; return why it does not, or None."""
    until = time.monotonic() + STARTING
    while is_alive():
        if answers(url, secret=secret):
            return None
        if time.monotonic() > until:
            return "did not answer in time"
        time.sleep(0.05)
    return "ended while it started"


def _find(mark: str) -> list[psutil.Process]:
    """Return the living processes of this user that have a mark."""
    processes = psutil.process_iter(["environ"])
    return [process for process in processes if (process.info["environ"] or {}).get(MARK) == mark]


def _environment_of(server: Server) -> dict[str, str]:
    """Return the environment of a server. Variables that the user has set override the server's, except its places."""
    places = {name: value for name, value in server.environment.items() if name in PLACES}
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    path = os.pathsep.join(map(os.path.abspath, filter(None, inherited.get("PYTHONPATH", "").split(os.pathsep))))
    return {**server.environment, **inherited, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **places}
