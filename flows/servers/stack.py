"""The local stack: a Prefect server and the MLflow UI, in the background on this machine, with their databases
under the home folder. What a run wrote through a server that lived only as long as the run, `tokenmill up` shows.

A server holds a lock on its record (`.tokenmill/prefect.json`) for as long as it lives: the operating system lets
go of it whatever ends the server, so a stale record or a process id that now belongs to somebody else deceives
nobody.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from filelock import FileLock

from flows.servers.health import LOOPBACK, answers, has_page
from flows.servers.processes import end_group, end_orphans, free_port, is_dead, read_record, spawn, wait_until_healthy
from flows.servers.server import Server, mlflow, port_of, prefect, private_folder


@dataclass(frozen=True)
class Service:
    """One of the two servers as it is now.

    running: whether it answers. ours: whether `up` started it, in which case `down` ends it and pid, since and log
    are known; otherwise `PREFECT_API_URL` or `MLFLOW_TRACKING_URI` names it, or it does not run at all.
    """

    name: str
    url: str
    running: bool
    ours: bool
    pid: int | None = None
    since: datetime | None = None
    log: Path | None = None


class Stack:
    """The Prefect server and the MLflow UI of one home folder.

    Args:
        home: the folder under which `mlruns/` and `.tokenmill/` lie.
        prefect_port, mlflow_port: where to listen; by default what `TOKENMILL_PREFECT_PORT` and
            `TOKENMILL_MLFLOW_PORT` say, or else 4200 and 5000.
    """

    def __init__(self, home: Path | str, prefect_port: int | None = None, mlflow_port: int | None = None) -> None:
        self.home = Path(home).absolute()
        self.servers = (
            prefect(self.home, prefect_port or port_of("TOKENMILL_PREFECT_PORT", 4200)),
            mlflow(self.home, mlflow_port or port_of("TOKENMILL_MLFLOW_PORT", 5000)),
        )

    def up(self) -> list[Service]:
        """Start what does not run yet, and wait until both answer.

        Raises:
            InputError: a port is taken, or a server did not come up.
        """
        with self._alone():
            missing = [server for server in self.servers if not read_record(server) and not _named(server)]
            for server in missing:  # both, before one of them starts
                free_port(server)
            started = {server.name: spawn(server) for server in missing}
            for server in self.servers:
                if read_record(server) or server.name in started:
                    wait_until_healthy(server, started.get(server.name))
        return self.status()

    def status(self) -> list[Service]:
        """Both servers as they are now."""
        return [_status(server) for server in self.servers]

    def down(self) -> list[Service]:
        """End what `up` started, with every process it started in turn, and nothing else; returns what ended."""
        ended = []
        with self._alone():
            for server in self.servers:
                service = _status(server)
                if record := read_record(server):
                    end_group(record.pid, gone=partial(is_dead, server))
                    ended.append(service)
                end_orphans(server)
                server.record.unlink(missing_ok=True)
        return ended

    def _alone(self) -> FileLock:
        return FileLock(private_folder(self.home) / "stack.lock")


def pages(home: Path | str) -> dict[str, str]:
    """Where a browser finds Prefect's and MLflow's pages on a home, by the tool's name; now, or after `up`."""

    def page(server: Server) -> str:
        if record := read_record(server):
            return record.url
        named = os.environ.get(server.named_by, "").rstrip("/").removesuffix("/api")
        named = re.sub("(?<=//)[^/]*@", "", named)  # a name and password are nobody else's business
        return named if named.startswith("http") and has_page(named) else server.url

    return {server.name: page(server) for server in Stack(home).servers}


def _named(server: Server) -> str | None:
    """The address that the tool's own variable gives; if that is where `up` would listen, a server must be there."""
    url = os.environ.get(server.named_by, "")
    if not url.startswith("http"):
        return None
    here = url.rstrip("/").removesuffix("/api").replace("localhost", LOOPBACK) == server.url
    return None if here and not answers(url) else url


def _status(server: Server) -> Service:
    base = server.health.removesuffix("/health")
    if record := read_record(server):
        running = answers(record.url + base)
        return Service(server.name, record.url, running, True, record.pid, record.since, record.log)
    if url := _named(server):
        return Service(server.name, url, answers(url), False)
    return Service(server.name, server.url, False, False)
