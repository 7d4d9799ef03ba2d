"""The Prefect server and the MLflow server: how each is started and where it answers."""

import os
from collections.abc import Callable
from functools import partial
from importlib import util
from pathlib import Path
from typing import NamedTuple

from flows.servers.health import LOOPBACK
from flows.servers.mlflow_database import ensure_mlflow_database
from flows.servers.reach import LOCAL_NAMES, Reach, check_patterns
from flows.servers.secret import Secret, home_secret
from flows.servers.sqlite_database import check_database
from pipelines.errors import InputError
from pipelines.store.modes import make_folder

SERVE = "flows.servers.serve"
"""The module that runs a server behind the guard."""

LOCAL = Reach()
"""Only this machine can call a server, which is the default."""

PLACES = ("PREFECT_HOME", "MLFLOW_BACKEND_STORE_URI")
"""Variables of the servers that say where their data is. Only the home and `MLFLOW_TRACKING_URI` decide that."""

_PREFECT = Path(util.find_spec("prefect").origin or "").parent  # type: ignore[union-attr]
PREFECT_FILES = {
    "PREFECT_PROFILES_PATH": str(_PREFECT / "settings" / "profiles.toml"),
    "PREFECT_LOGGING_SETTINGS_PATH": str(_PREFECT / "logging" / "logging.yml"),
}
"""Prefect's own files of settings. Those in its home may have come with a folder that somebody sent."""


class Server(NamedTuple):
    """How a server is started and found.

    command: a module and its arguments, to which the numbers of its listening sockets are added. environment: its
    settings. api: the path of its API. named_by: the variable that names another server to use in its place.
    reach: who can call it. prepare: called before each start.
    """

    name: str
    home: Path
    port: int
    command: list[str]
    environment: dict[str, str]
    api: str
    named_by: str
    reach: Reach = LOCAL
    prepare: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        """Return the address where this machine finds the server once it is started."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def record(self) -> Path:
        """Return the file that says which process is the server."""
        return self.home / ".tokenmill" / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """Return the file of the server's output."""
        return self.home / ".tokenmill" / "logs" / f"{self.name}.log"

    @property
    def secret(self) -> Secret:
        """Return the secret that the server asks for.

        Raises:
            InputError: it is not safe, or the home cannot be used.
        """
        return home_secret(private_folder(self.home))


def prefect(home: Path, port: int, name: str = "prefect", reach: Reach = LOCAL) -> Server:
    """Return the Prefect server of a home, or with the name `prefect-temporary` the one of a run."""
    url = f"http://{LOOPBACK}:{port}"
    command = [SERVE, name, str(home), *reach.names]
    environment = {
        "PREFECT_HOME": str(home / ".tokenmill" / "prefect"),
        **PREFECT_FILES,
        "PREFECT_SERVER_UI_API_URL": "/api",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        # By default any page in the browser may call this server; its own UI needs no such permission.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
        # By default task runs are recorded one by one, slower than tasks run. A server that ends loses the rest.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "64",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    }
    database = home / ".tokenmill" / "prefect" / "prefect.db"
    migrations = _PREFECT / "server" / "database" / "_migrations" / "versions" / "sqlite"
    prepare = partial(check_database, "Prefect", database, ("flow_run", "deployment"), migrations)
    return Server(name, home, port, command, environment, "/api", "PREFECT_API_URL", reach, prepare)


def mlflow(home: Path, port: int, reach: Reach = LOCAL) -> Server:
    """Return the MLflow server of a home.

    Raises:
        InputError: others can call it, and a variable of MLflow's allows them any name.
    """
    allowed = "MLFLOW_SERVER_ALLOWED_HOSTS"
    if reach != LOCAL:
        check_patterns(allowed, os.environ.get(allowed, ""), port)
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = named if "://" in named and not named.startswith("http") else f"sqlite:///{home / 'mlruns' / 'mlflow.db'}"
    if uri.startswith("sqlite:///"):  # the server runs in another folder
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    artifacts = home / "mlruns" / "artifacts"
    # One process and no job runner: 4 s and 0.5 GB instead of 33 s and 2.1 GB.
    command = [SERVE, "mlflow", str(home), *reach.names]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": uri,  # not in the command line, where every user could read a password in it
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(artifacts),
        "MLFLOW_ARTIFACTS_DESTINATION": str(artifacts),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        allowed: ",".join(f"{name}:{port}" for name in LOCAL_NAMES),
    }
    prepare = partial(ensure_mlflow_database, uri, artifacts)
    return Server("mlflow", home, port, command, environment, "", "MLFLOW_TRACKING_URI", reach, prepare)


def private_folder(home: Path) -> Path:
    """Create the folder of the servers' files under a home.

    Raises:
        InputError: the home cannot be used.
    """
    folder = home / ".tokenmill"
    try:
        make_folder(folder)
    except OSError as error:
        raise InputError(f"{home} cannot be used ({error.strerror}); set TOKENMILL_HOME to another folder.") from None
    return folder


def empty_folder(home: Path) -> Path:
    """Return an empty folder of a home. Servers run in it, because they would read settings in any other.

    Raises:
        InputError: something is in it.
    """
    folder = private_folder(home) / "empty"
    folder.mkdir(mode=0o700, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(f"{folder} has to be empty, because servers run in it; delete what is in it.")
    return folder


def port_variable(name: str) -> str:
    """Return the environment variable that sets a server's port."""
    return f"TOKENMILL_{name.upper()}_PORT"


def port_of(name: str, default: int) -> int:
    """Return the port that the environment sets for a server, or the default.

    Raises:
        InputError: the variable's value is not a port.
    """
    variable = port_variable(name)
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise InputError(f"{variable}={text!r} is not a port; give a number from 1 to 65535.")
    return int(text)
