"""The home folder: `TOKENMILL_HOME` (by default the current folder), with `data/` and `mlruns/` under it.

`TOKENMILL_DATA` stores the published data in a bucket (`s3://bucket/prefix`, or another address that fsspec reads).
`data/` is then a cache of the bucket.

`TOKENMILL_UMASK` lets the group of the owner use the home, which is for the owner alone by default.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from flows.console import warn
from flows.environment import complete_variables
from pipelines.errors import InputError
from pipelines.store.bucket import Bucket
from pipelines.store.modes import keep_private
from pipelines.store.store import Store


@dataclass(frozen=True)
class Home:
    """A tokenmill home: published data, MLflow's files and the files of the local servers."""

    path: Path

    @classmethod
    def from_environment(cls) -> Home:
        """Return the home that `TOKENMILL_HOME` names, by default the current folder, and prepare this process for it.

        The process and its children make files that others cannot read, and variables that people may have left
        incomplete become what Prefect's and MLflow's clients read (see `flows.environment`).

        Raises:
            InputError: MLflow cannot read the path, or a variable cannot be used.
        """
        keep_private()
        return cls(complete_variables())

    @property
    def store(self) -> Store:
        """Return the store of published data."""
        address = os.environ.get("TOKENMILL_DATA")
        if address and "://" not in address:
            raise InputError("TOKENMILL_DATA is no address such as s3://bucket/prefix or file:///folder.")
        return Store(self.path / "data", Bucket(address) if address else None, warn)

    @property
    def label(self) -> str:
        """Return the tag of MLflow's runs that separates this home from those of other machines."""
        return f"{platform.node()}:{self.path}".replace("'", "")

    @property
    def starting(self) -> FileLock:
        """Return the lock that a starting flow run holds; unused datasets are deleted only under it."""
        return self.store.lock("starting")

    @property
    def mlflow_uri(self) -> str:
        """Return MLflow's tracking URI: `MLFLOW_TRACKING_URI` if set, else an SQLite database under the home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.path / 'mlruns' / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        """Return the folder of MLflow's artifacts."""
        return self.path / "mlruns" / "artifacts"

    @property
    def unsent(self) -> Path:
        """Return the folder of values and texts that MLflow has not received because it did not answer."""
        return self.path / ".tokenmill" / "unsent"

    @property
    def compiled(self) -> Path:
        """Return the folder for compiled code, which PyTorch unpickles and executes.

        Its name holds the number of the folder around it, so a cache that somebody sends with a home is never used.

        Raises:
            InputError: others can write to it.
        """
        private = self.path / ".tokenmill"
        private.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = private / f"compiled-{private.stat().st_ino:x}"
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
        if state.st_uid != os.getuid() or state.st_mode & 0o022:
            raise InputError(f"Others than you can write to {folder}, whose code is executed; delete it.")
        return folder
