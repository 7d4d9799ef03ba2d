"""The environment as people set it: variables become what Prefect's and MLflow's clients read.

What cannot be used is refused with a sentence that names the variable.
"""

import getpass
import os
import re
from pathlib import Path

from pipelines.addresses import has_secret, split_user
from pipelines.errors import InputError

STORED = ("TOKENMILL_HOME", "TOKENMILL_DATA", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_ARTIFACTS_DESTINATION")
"""Variables whose addresses manifests or databases keep."""

OF_OTHERS = {
    "MLFLOW_REGISTRY_URI",  # models are registered where their runs are tracked
    "MLFLOW_ENABLE_ASYNC_LOGGING",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
}
"""Variables that people set for other projects, and that would lead our runs and models elsewhere."""

DATABASES = r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:"
HOST = re.compile(r"[\w.-]+:\d+(/.*)?|localhost(/.*)?")
"""The address of a server without its scheme, as people write it."""


def complete_variables() -> Path:
    """Make the variables complete for Prefect, MLflow and processes that this one starts; return the home folder.

    Raises:
        InputError: one cannot be used, or would store a secret.
    """
    _refuse_secrets()
    _move_secrets()
    for name in OF_OTHERS:
        os.environ.pop(name, None)
    home = home_folder(os.environ.get("TOKENMILL_HOME") or ".")
    if os.environ.get("TOKENMILL_HOME"):
        os.environ["TOKENMILL_HOME"] = str(home)  # children may run in other folders
    if address := os.environ.get("PREFECT_API_URL", ""):
        os.environ["PREFECT_API_URL"] = _prefect_api(address)
    if address := os.environ.get("MLFLOW_TRACKING_URI", ""):
        os.environ["MLFLOW_TRACKING_URI"] = _tracking_uri(address)
    _name_user(home)
    return home


def home_folder(name: str) -> Path:
    """Return the home folder that a text names.

    Raises:
        InputError: the folder cannot be a home.
    """
    if "://" in name:
        raise InputError("TOKENMILL_HOME is no folder but an address; TOKENMILL_DATA stores the data in a bucket.")
    try:
        home = expand_user(Path(name)).resolve()
    except FileNotFoundError:
        raise InputError("The current folder was deleted; go to another, or set TOKENMILL_HOME.") from None
    if "?" in str(home):  # ends the path in an address of SQLite
        raise InputError(f"The home folder {home} has a question mark in its path, which MLflow cannot read.")
    return home


def expand_user(path: Path) -> Path:
    """Return a path with the home folder of the user in place of `~`.

    Raises:
        InputError: there is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise InputError(f"{path}: nobody knows the home folder of this user; write the whole path.") from None


def _prefect_api(address: str) -> str:
    """Return the address of a Prefect API; people leave out its scheme or its path."""
    address = (f"http://{address}" if HOST.fullmatch(address) else address).rstrip("/")
    if not re.match(r"https?://", address):
        raise InputError("PREFECT_API_URL is no address of a Prefect server; it is http://HOST:PORT/api or the like.")
    return address if "/" in address.partition("://")[2] else f"{address}/api"


def _tracking_uri(uri: str) -> str:
    """Return the address of an MLflow server or database; people leave out its scheme, or name a file."""
    if HOST.fullmatch(uri):
        return f"http://{uri}"
    if uri.startswith(("http://", "https://")):
        return uri.partition("#")[0].rstrip("/")  # a page's address copied from a browser has a part behind `#`
    if uri.startswith("sqlite:///") and ":memory:" not in uri:  # a path, in which other folders have other files
        path, _, options = uri.removeprefix("sqlite:///").partition("?")
        return f"sqlite:///{expand_user(Path(path)).absolute()}{_ and '?'}{options}"
    if re.match(rf"{DATABASES}(?<!sqlite:)", uri):
        return uri
    database = expand_user(Path(uri.removeprefix("file:").replace("///", "/")))
    hint = (
        f"sqlite:///{database.absolute()}" if database.suffix in (".db", ".sqlite") else "sqlite:////FOLDER/mlflow.db"
    )
    raise InputError(
        f"MLFLOW_TRACKING_URI={uri!r} names no server or database that tokenmill reads; "
        f"it is http://HOST:PORT, {hint} or the like. Without it, a database in the home is used."
    )


def _name_user(home: Path) -> None:
    """Name the user and a home folder if the system knows none, as in a container with `--user`."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(home / ".tokenmill" / "user")
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"


def _refuse_secrets() -> None:
    for name in STORED:
        if has_secret(os.environ.get(name, "")):
            raise InputError(
                f"{name} carries a password or a token, which manifests and MLflow would keep; give it in the "
                "variables of that store, such as AWS_SECRET_ACCESS_KEY or FSSPEC_FTP_PASSWORD (see docs/surviving.md)."
            )


def _move_secrets() -> None:
    """Move user and password from the addresses of web servers to the variables of their clients."""
    mlflow, user = split_user(tracking := os.environ.get("MLFLOW_TRACKING_URI", ""))
    if has_secret(tracking) and not re.match(rf"https?:|{DATABASES}", tracking):
        raise InputError(  # MLflow would quote it in its log
            "MLFLOW_TRACKING_URI names no server or database that MLflow knows; it is https://HOST, "
            "postgresql://USER:PASSWORD@HOST/DATABASE or the like."
        )
    if user:
        os.environ["MLFLOW_TRACKING_URI"] = mlflow
        if "MLFLOW_TRACKING_USERNAME" not in os.environ:
            os.environ["MLFLOW_TRACKING_USERNAME"], _, os.environ["MLFLOW_TRACKING_PASSWORD"] = user.partition(":")
    prefect, user = split_user(os.environ.get("PREFECT_API_URL", ""))
    if user:
        os.environ["PREFECT_API_URL"] = prefect
        os.environ.setdefault("PREFECT_API_AUTH_STRING", user)
