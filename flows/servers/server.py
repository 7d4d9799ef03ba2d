"""The two servers: how each is started and where it answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flows.servers.health import LOOPBACK
from flows.servers.mlflow_database import ensure_mlflow_database
from pipelines.errors import InputError

PLACES = ("PREFECT_HOME", "MLFLOW_BACKEND_STORE_URI")
"""Variables of the servers that say where their data is, which the home and `MLFLOW_TRACKING_URI` decide alone."""


# The two servers: how each is started, where it answers


class Server(NamedTuple):
    """How a server is started and found."""

    name: str
    port: int
    variable: str
    health: str
    named_by: str
    command: list[str]
    environment: dict[str, str]
    record: Path
    log: Path
    prepare: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


def prefect(home: Path, port: int) -> Server:
    url = f"http://{LOOPBACK}:{port}"
    return Server(
        name="prefect",
        port=port,
        variable="TOKENMILL_PREFECT_PORT",
        health="/api/health",
        named_by="PREFECT_API_URL",
        command=["prefect", "server", "start", "--host", LOOPBACK, "--port", str(port), "--log-level", "WARNING"],
        environment={
            "PREFECT_HOME": str(prefect_home(home)),
            "PREFECT_SERVER_UI_API_URL": f"{url}/api",
            # By default any page in the browser may call this server; its own UI needs no such permission.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
            # One at a time, task runs are recorded slower than tasks run, and a server that ends forgets the rest.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "64",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        },
        record=home / ".tokenmill" / "prefect.json",
        log=home / ".tokenmill" / "logs" / "prefect.log",
    )


def mlflow(home: Path, port: int) -> Server:
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = named if "://" in named and not named.startswith("http") else f"sqlite:///{home / 'mlruns' / 'mlflow.db'}"
    artifacts = home / "mlruns" / "artifacts"
    return Server(
        name="mlflow",
        port=port,
        variable="TOKENMILL_MLFLOW_PORT",
        health="/health",
        named_by="MLFLOW_TRACKING_URI",
        # One worker and no job runner: 4 s and 0.5 GB instead of 33 s and 2.1 GB.
        command=["mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"],
        environment={
            "MLFLOW_BACKEND_STORE_URI": uri,  # not on the command line, where everybody could read a password in it
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(artifacts),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{LOOPBACK}:{port},localhost:{port}",
        },
        record=home / ".tokenmill" / "mlflow.json",
        log=home / ".tokenmill" / "logs" / "mlflow.log",
        prepare=lambda: ensure_mlflow_database(uri, artifacts),
    )


def private_folder(home: Path) -> Path:
    folder = home / ".tokenmill"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{home} cannot be used ({error.strerror}); set TOKENMILL_HOME to another folder.") from None
    return folder


def prefect_home(home: Path) -> Path:
    return home / ".tokenmill" / "prefect"


def port_of(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise InputError(f"{variable}={text!r} is not a port; give a number from 1 to 65535.")
    return int(text)
