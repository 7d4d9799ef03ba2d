"""Where things lie: `TOKENMILL_HOME` (by default the current folder), with `data/` and `mlruns/` under it.

`TOKENMILL_DATA` puts the published data into a bucket (`s3://bucket/prefix`, or what else fsspec reaches), of which
`data/` is then a cache.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pipelines.errors import InputError
from pipelines.store.bucket import Bucket
from pipelines.store.store import Store


@dataclass(frozen=True)
class Home:
    """A tokenmill home: published data, MLflow's files and the local servers' own."""

    path: Path

    @classmethod
    def from_environment(cls) -> Home:
        # Six tries with ever longer pauses are some two minutes in which an MLflow server may be away.
        patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "6", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
        quiet = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # two lines for every step; a run's end has a link
        for name, value in {**NO_TELEMETRY, **patience, **quiet}.items():
            os.environ.setdefault(name, value)
        home = Path(os.environ.get("TOKENMILL_HOME") or ".").resolve()
        if "?" in str(home):  # where an address of SQLite ends
            raise InputError(f"The home folder {home} has a question mark in its path, which MLflow cannot read.")
        return cls(home)

    @property
    def store(self) -> Store:
        address = os.environ.get("TOKENMILL_DATA")
        if address and "://" not in address:
            raise InputError(f"TOKENMILL_DATA={address!r} is no address such as s3://bucket/prefix or file:///folder.")
        return Store(self.path / "data", Bucket(address) if address else None)

    @property
    def label(self) -> str:
        """Tells this home from those of other machines, as a tag of MLflow's runs."""
        return f"{platform.node()}:{self.path}".replace("'", "")

    @property
    def starting(self) -> FileLock:
        """Held while a flow run begins, and while datasets are tidied away, which none may do meanwhile."""
        return self.store.lock("starting")

    @property
    def mlflow_uri(self) -> str:
        """Where runs are tracked: `MLFLOW_TRACKING_URI` if set, else an SQLite database under the home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.path / 'mlruns' / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.path / "mlruns" / "artifacts"

    @property
    def unsent(self) -> Path:
        """What MLflow could not be told yet, because it did not answer."""
        return self.path / ".tokenmill" / "unsent"


NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""What keeps both tools from calling home; a person who set one of these otherwise is heeded."""
