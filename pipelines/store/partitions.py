"""Marks of finished partitions in a step's scratch folder, by which a killed step resumes."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipelines.store.files import write_json

DONE = "done.json"  # in the folder of a partition that is done


def mark_done(folder: Path, value: Any) -> None:
    """Mark a partition's folder as complete, and keep a value with the mark."""
    states = {path.name: _state(path) for path in folder.iterdir() if not path.name.startswith(".")}
    write_json(folder / DONE, {"files": states, "value": value, "sha256": _digest(value)})


def read_done(folder: Path) -> Any:
    """Return the value that was kept with a folder's mark, or None if the folder is not complete.

    The files were not flushed one by one before the mark. After a power cut, an unwritten file is shorter than
    recorded, and the partition is done again. So it is if somebody wrote to a file, or the mark is damaged.
    """
    try:
        mark = json.loads((folder / DONE).read_bytes())
        done = all(_state(folder / name) == state for name, state in mark["files"].items())
        return mark["value"] if done and mark["sha256"] == _digest(mark["value"]) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
