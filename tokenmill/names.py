"""Names, as the command line takes them, and folders: what each of them means in a home."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pipelines.errors import InputError

if TYPE_CHECKING:
    from flows.home import Home
    from pipelines.store.dataset import Dataset

Name: TypeAlias = str | Path
"""`NAME`, `KIND/NAME`, `NAME@FINGERPRINT` and the like, or the folder of something published.

A text is a folder if it begins with `/`, `.` or `~`, or has two slashes or more. No name looks like that.
"""


def open_home(home: str | Path | None = None) -> Home:
    """Return the home in a folder, by default the one that `TOKENMILL_HOME` names, else the current folder."""
    from flows.environment import home_folder
    from flows.home import Home

    return Home(home_folder(str(home or os.environ.get("TOKENMILL_HOME") or ".")))


def folder_of(name: Name) -> Path | None:
    """Return the folder that a name is, if it is one.

    Raises:
        InputError: nobody knows the home folder of a user in it.
    """
    if isinstance(name, Path) or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        from flows.environment import expand_user

        return expand_user(Path(name))
    return None


def find(name: Name, home: str | Path | None = None, kind: str | None = None) -> Dataset:
    """Return the published dataset that a name or a folder means.

    Raises:
        InputError: there is none, or it is of another kind.
    """
    from pipelines.catalog.registry import resolve_reference
    from pipelines.store.dataset import Dataset

    folder = folder_of(name)
    if folder is None:
        place = open_home(home)
        return place.store.open(resolve_reference(str(name), place.mlflow_uri), kind)
    found = Dataset.load(folder, moved=True)
    if not found:
        raise InputError(f"{folder} has no manifest.json, so nothing was published there.")
    if kind not in (None, found.ref.kind):
        raise InputError(f"{folder} holds a dataset of kind {found.ref.kind}; one of kind {kind} is wanted.")
    return found
