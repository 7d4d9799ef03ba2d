"""Runs one of a home's servers behind the guard: `python -m flows.servers.serve NAME HOME SOCKET`.

Prefect and MLflow run as `prefect server start` and `mlflow server` run them, each in this one process. Their own
checks of passwords stay off, since the guard has done them. SOCKET is the number of the listening socket, inherited.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from flows.servers.guard import Guard
from flows.servers.secret import home_secret
from flows.servers.server import private_folder


def serve_prefect(home: Path, listener: socket.socket) -> None:
    """Run Prefect's server. A secret in Prefect's own variables is accepted too."""
    others = [os.environ.pop(name, "") for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")]
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    api = get_current_settings().server.api
    app = create_app(final=True)
    secret = home_secret(private_folder(home))
    origins = _list(api.cors_allowed_origins)
    _serve(
        Guard(app, secret, _port(listener), others=others, hosts=_hosts(origins), origins=origins),
        listener,
        timeout_keep_alive=api.keepalive_timeout,
        ws_ping_interval=api.websocket_ping_interval,
        ws_ping_timeout=api.websocket_ping_timeout,
    )


def serve_mlflow(home: Path, listener: socket.socket) -> None:
    """Run MLflow's server. A user name with its password, or a token, in MLflow's own variables is accepted too."""
    name, password, token = (os.environ.pop(f"MLFLOW_TRACKING_{key}", "") for key in ("USERNAME", "PASSWORD", "TOKEN"))
    others = [f"{name}:{password}" if name and password else "", token]
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

    origins = _list(os.environ.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", ""))
    hosts = [*_list(os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"]), *_hosts(origins)]
    secret = home_secret(private_folder(home))
    port, sites = _port(listener), {"hosts": hosts, "origins": origins}
    _serve(Guard(app, secret, port, others=others, **sites, takes_files=True, defaults=MODEL_TRAINING), listener)


def serve_run(home: Path, listener: socket.socket) -> None:
    """Run the Prefect server of one run, which has no pages and starts no other runs."""
    parts = ("UI", "SERVICES_SCHEDULER", "SERVICES_LATE_RUNS")
    os.environ |= {f"PREFECT_SERVER_{part}_ENABLED": "false" for part in parts}
    serve_prefect(home, listener)


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


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def _serve(guard: Guard, listener: socket.socket, **settings: Any) -> None:
    # No log of requests: the token of a login link would be in it.
    config = uvicorn.Config(guard, log_level="warning", access_log=False, **settings)
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    _, name, home, number = sys.argv
    SERVERS[name](Path(home), socket.socket(fileno=int(number)))
