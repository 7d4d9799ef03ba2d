"""Files that are written whole or not at all, and locks between processes."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock

from pipelines.store.modes import make_folder


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; afterwards the file is whole or absent, even if two processes write it at once."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent whatever happens, and on the disk when this returns."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
        sync(temporary)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people and programs, atomically."""
    write_synced(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(folder: Path) -> None:
    """Flush a folder and all folders below it to the disk."""
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync(path)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(root: Path, name: str) -> FileLock:
    """Return a lock between the processes that use a store. It is released when its holder ends or is killed.

    Names may come from MLflow. One that may not be a file's is replaced by its SHA-256.
    """
    folder = make_folder(root / ".locks")
    plain = re.fullmatch(r"[\w-][\w.-]{0,150}", name, re.ASCII)
    return FileLock(folder / f"{name if plain else hashlib.sha256(name.encode()).hexdigest()}.lock")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the disk cannot do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def state_of(info: Mapping[str, Any]) -> str:
    """Return the tag (ETag, mtime, ...) that changes whenever the file that fsspec describes changes."""
    tags = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "mtime", "created")
    return next((str(info[tag]) for tag in tags if info.get(tag)), "")
