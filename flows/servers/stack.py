"""The local stack: a Prefect server and the MLflow UI, in the background on this machine.

Their databases are stored under the home folder. A run that starts a server of its own writes into the same database,
so `up` shows it later.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from flows.servers.guard import login_link
from flows.servers.health import LOOPBACK, answers, has_page
from flows.servers.prefect_server import is_temporary, prefect_variables
from flows.servers.processes import (
    Service,
    check_reach,
    check_secret,
    end_recorded,
    find_started,
    listen,
    start_recorded,
    wait_until_healthy,
)
from flows.servers.reach import Reach
from flows.servers.secret import USER
from flows.servers.server import LOCAL, Server, mlflow, port_of, prefect, private_folder
from pipelines.addresses import without_secrets


class Stack:
    """The Prefect server and the MLflow UI of one home folder.

    Args:
        home: the folder that holds `mlruns/` and `.tokenmill/`.
        prefect_port: where Prefect listens; by default `TOKENMILL_PREFECT_PORT`, or else 4200.
        mlflow_port: where MLflow listens; by default `TOKENMILL_MLFLOW_PORT`, or else 5000.
        reach: who can call the servers that `up` starts; by default only this machine. If it is given, servers that
            run already must have been started with it.
    """

    def __init__(
        self,
        home: Path | str,
        prefect_port: int | None = None,
        mlflow_port: int | None = None,
        reach: Reach | None = None,
    ) -> None:
        self.home, self.reach = Path(home).absolute(), reach
        self.servers = (
            prefect(self.home, prefect_port or port_of("prefect", 4200), reach=reach or LOCAL),
            mlflow(self.home, mlflow_port or port_of("mlflow", 5000), reach=reach or LOCAL),
        )

    def up(self) -> list[Service]:
        """Start the servers that do not run, and wait until both answer.

        Raises:
            InputError: a port is taken, a server did not come up, or one runs that asks for no secret or that was
                started with another reach.
        """
        with self._locked():
            for server in self.servers:
                check_secret(server)
                if self.reach:
                    check_reach(server)
            missing = [server for server in self.servers if not find_started(server) and not _named(server)]
            for server in missing:
                end_recorded(server)
            listeners = [listen(server) for server in missing]
            for server, own in zip(missing, listeners, strict=True):
                start_recorded(server, own)
            for server in self.servers:
                if server in missing or find_started(server):
                    wait_until_healthy(server)
        return self.status()

    def status(self) -> list[Service]:
        """Return the present state of both servers."""
        return [_status(server) for server in self.servers]

    def down(self) -> list[Service]:
        """End the servers that `up` started, with every process they started, and nothing else; return what ended."""
        with self._locked():
            ended = [service for server in self.servers if (service := find_started(server))]
            for server in self.servers:
                end_recorded(server)
        return ended

    def wait(self, services: Sequence[Service], is_asked: Callable[[], bool]) -> Service | None:
        """Wait until the caller is asked to stop, or one of the servers that `up` started ends; return the latter."""
        ours = [(server, service) for server, service in zip(self.servers, services, strict=False) if service.ours]
        while not is_asked():
            for server, service in ours:
                if find_started(server) is None:
                    return service
            time.sleep(0.5)
        return None

    def links(self) -> list[str]:
        """Return addresses that open the pages of the servers that `up` started, logged in, for ten minutes."""
        return [
            login_link(service.url.replace(LOOPBACK, name), server.secret)
            for server in self.servers
            if (service := find_started(server))
            for name in service.reach.own_names
        ]

    def environment(self) -> dict[str, str]:
        """Return the variables with which Prefect's and MLflow's own programs use the servers that `up` started."""
        prefect, mlflow = self.servers
        variables: dict[str, str] = {}
        if service := find_started(prefect):
            variables |= prefect_variables(f"{service.url}/api", prefect.secret)
        if service := find_started(mlflow):
            login = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": mlflow.secret.value}
            variables |= {"MLFLOW_TRACKING_URI": service.url, **login}
        return {**variables, "no_proxy": os.environ.get("no_proxy", LOOPBACK)} if variables else {}

    def _locked(self) -> FileLock:
        return FileLock(private_folder(self.home) / "stack.lock")


def pages(home: Path | str) -> dict[str, str]:
    """Return where a browser finds Prefect's and MLflow's pages about a home, now or after `up`, by server name."""

    def page(server: Server) -> str:
        if service := find_started(server):
            return service.url
        address = os.environ.get(server.named_by, "")
        if is_temporary(address):
            return server.url
        named = without_secrets(address.rstrip("/").removesuffix("/api"))
        return named if named.startswith("http") and has_page(named) else server.url

    return {server.name: page(server) for server in Stack(home).servers}


def _named(server: Server) -> str | None:
    """Return the address of another server that the environment names.

    If that is where `up` would listen, a server must answer there already.
    """
    url = os.environ.get(server.named_by, "")
    if not url.startswith("http"):
        return None
    here = url.rstrip("/").removesuffix("/api").replace("localhost", LOOPBACK) == server.url
    return None if here and not answers(url) else url


def _status(server: Server) -> Service:
    if service := find_started(server):
        return replace(service, running=answers(service.url + server.api, secret=server.secret))
    if url := _named(server):
        return Service(server.name, url, answers(url), False)
    return Service(server.name, server.url, False, False)
