"""Runs one of a home's servers behind the guard: `python -m flows.servers.serve NAME HOME [ALLOWED ...] SOCKETS`.

Prefect and MLflow run as `prefect server start` and `mlflow server` run them, each in this one process. Their own
checks of passwords stay off, since the guard has done them. ALLOWED are names by which other machines call the server.
SOCKETS are the numbers of the listening sockets, inherited, with commas between them.
"""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from flows.servers.guard import Guard
from flows.servers.reach import host_headers
from flows.servers.secret import home_secret
from flows.servers.server import private_folder

Listeners = Sequence[socket.socket]


def serve_prefect(home: Path, names: Sequence[str], listeners: Listeners) -> None:
    """Run Prefect's server. A secret in Prefect's own variables is accepted too."""
    others = [os.environ.pop(name, "") for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")]
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    api = get_current_settings().server.api
    app = create_app(final=True)
    secret = home_secret(private_folder(home))
    origins = _list(api.cors_allowed_origins)
    port = _port(listeners)
    hosts = [*host_headers(names, port), *_hosts(origins)]
    _serve(
        Guard(app, secret, port, others=others, hosts=hosts, origins=origins),
        listeners,
        timeout_keep_alive=api.keepalive_timeout,
        ws_ping_interval=api.websocket_ping_interval,
        ws_ping_timeout=api.websocket_ping_timeout,
    )


def serve_mlflow(home: Path, names: Sequence[str], listeners: Listeners) -> None:
    """Run MLflow's server. A user name with its password, or a token, in MLflow's own variables is accepted too."""
    name, password, token = (os.environ.pop(f"MLFLOW_TRACKING_{key}", "") for key in ("USERNAME", "PASSWORD", "TOKEN"))
    others = [f"{name}:{password}" if name and password else "", token]
    port = _port(listeners)
    named = host_headers(names, port)
    origins = _list(os.environ.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", ""))
    hosts = [*_list(os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"]), *named]
    # MLflow checks both headers too, after the guard, and reads these variables as it is imported.
    pages = [f"{scheme}://{name}" for name in named for scheme in ("http", "https")]
    os.environ |= {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join([*origins, *pages]),
    }
    from mlflow.server import constants, handlers

    uri, root = os.environ["MLFLOW_BACKEND_STORE_URI"], os.environ["MLFLOW_DEFAULT_ARTIFACT_ROOT"]
    registry = os.environ.get("MLFLOW_REGISTRY_STORE_URI", uri)
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: uri,
        constants.REGISTRY_STORE_URI_ENV_VAR: registry,
        constants.ARTIFACT_ROOT_ENV_VAR: root,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: os.environ["MLFLOW_ARTIFACTS_DESTINATION"],
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    handlers.initialize_backend_stores(uri, registry, root)
    from mlflow.server.fastapi_app import app

    hosts += _hosts(origins)
    secret = home_secret(private_folder(home))
    sites = {"hosts": hosts, "origins": origins}
    _serve(Guard(app, secret, port, others=others, **sites, takes_files=True, defaults=MODEL_TRAINING), listeners)


def serve_run(home: Path, names: Sequence[str], listeners: Listeners) -> None:
    """Run the Prefect server of one run, which has no pages and starts no other runs."""
    parts = ("UI", "SERVICES_SCHEDULER", "SERVICES_LATE_RUNS")
    os.environ |= {f"PREFECT_SERVER_{part}_ENABLED": "false" for part in parts}
    serve_prefect(home, names, listeners)


MODEL_TRAINING = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.telemetry.info.alert.dismissed_v1": "true",
    "_mlflow_model_registry_promo_modal_dismissed_v1": "true",
}
"""What MLflow's pages keep in a browser: model training, no assistant, no tour, no notice of telemetry that is off."""

SERVERS = {"prefect": serve_prefect, "mlflow": serve_mlflow, "prefect-temporary": serve_run}


def _list(setting: str) -> list[str]:
    return [each.strip() for each in setting.split(",") if each.strip()]


def _hosts(origins: list[str]) -> list[str]:
    """Return the names that servers have whose pages are allowed. A `*` allows pages of any site, and no name."""
    return [host for origin in origins if (host := urlsplit(origin).netloc)]


def _port(listeners: Listeners) -> int:
    return int(listeners[0].getsockname()[1])


def _serve(guard: Guard, listeners: Listeners, **settings: Any) -> None:
    # No log of requests: the token of a login link would be in it.
    config = uvicorn.Config(guard, log_level="warning", access_log=False, **settings)
    uvicorn.Server(config).run(list(listeners))


if __name__ == "__main__":
    _, name, home, *names, numbers = sys.argv
    SERVERS[name](Path(home), names, [socket.socket(fileno=int(number)) for number in numbers.split(",")])
