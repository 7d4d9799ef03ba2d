"""Marks of finished partitions in a step's scratch folder, by which a killed step resumes."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.store.files import write_json

DONE = "done.json"  # in the folder of a partition that is done


def mark_done(folder: Path, value: Any) -> None:
    """Write down that a partition's folder has all that belongs into it, and a value."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if not path.name.startswith(".")}
    write_json(folder / DONE, {"bytes": sizes, "value": value})


def read_done(folder: Path) -> Any:
    """The value that was written down of a folder; none if it is not done.

    To flush every file of it before would take time that is lost only if the power is cut; a file that was not on the
    disk is then shorter than it was.
    """
    if not (folder / DONE).exists():
        return None
    said = json.loads((folder / DONE).read_text())
    with suppress(FileNotFoundError):
        if all((folder / name).stat().st_size == size for name, size in said["bytes"].items()):
            return said["value"]
    return None
