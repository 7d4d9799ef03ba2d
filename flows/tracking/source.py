"""Who made a run with what: the user and the revision of the code, in MLflow's own tags."""

import getpass
import shutil
import subprocess
from functools import cache
from pathlib import Path

from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER


def source_tags(command: str) -> dict[str, str]:
    """Return the tags from which MLflow shows a run's author, source and version."""
    tags = {
        MLFLOW_USER: _user(),
        MLFLOW_SOURCE_NAME: command,
        MLFLOW_SOURCE_TYPE: "LOCAL",
        MLFLOW_GIT_COMMIT: code_revision().removesuffix("+changes"),
    }
    return {key: value for key, value in tags.items() if value}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return ""


@cache
def code_revision() -> str:
    """Return the git commit of the code, with `+changes` if the tree is not clean; empty outside a checkout."""
    root, git = Path(__file__).resolve().parents[2], shutil.which("git")
    if not git or not (root / ".git").exists():  # git looks in the folders above too, and runs what a repository says
        return ""

    def ask(*arguments: str) -> str:
        command = [git, "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 - our own checkout

    revision = ask("rev-parse", "HEAD")
    return revision + ("+changes" if revision and ask("status", "--porcelain", "--untracked-files=no") else "")
