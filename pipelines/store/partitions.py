"""Marks of finished partitions in a step's scratch folder, by which a killed step resumes."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.store.files import write_json

DONE = "done.json"  # in the folder of a partition that is done


def mark_done(folder: Path, value: Any) -> None:
    """Mark a partition's folder as complete, and keep a value with the mark."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if not path.name.startswith(".")}
    write_json(folder / DONE, {"bytes": sizes, "value": value})


def read_done(folder: Path) -> Any:
    """Return the value that was kept with a folder's mark, or None if the folder is not complete.

    The files were not flushed one by one before the mark. After a power cut, an unwritten file is shorter than
    recorded, and the partition is done again.
    """
    if not (folder / DONE).exists():
        return None
    mark = json.loads((folder / DONE).read_text())
    with suppress(FileNotFoundError):
        if all((folder / name).stat().st_size == size for name, size in mark["bytes"].items()):
            return mark["value"]
    return None
