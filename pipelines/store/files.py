"""Files that are written whole or not at all, and locks between processes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields where to write a file, which is whole or absent then. Two that write the same at once do not meet."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Write a file so that it is whole or absent whatever happens, and on the disk when this returns."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
        sync(temporary)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people and programs, atomically."""
    write_synced(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(folder: Path) -> None:
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync(path)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_is_full(error: Exception) -> bool:
    """Whether an error came of a disk, or a quota, without room."""
    # Arrow and Python give a number; DuckDB, SQLite and safetensors a sentence.
    by_number = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return by_number or any(words in str(error) for words in ("No space left on device", "disk is full"))


def lock(root: Path, name: str) -> FileLock:
    """Return the lock of that name between processes that use a store. It ends with its holder, however that dies."""
    folder = root / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name, without a copy where the disk can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def state_of(info: Mapping[str, Any]) -> str:
    """What changes when a file does that fsspec describes so."""
    tags = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "mtime", "created")
    return next((str(info[tag]) for tag in tags if info.get(tag)), "")
