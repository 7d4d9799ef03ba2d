"""Disks that take no more bytes or files, whoever noticed first: our code, a library, a database or a server."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import InputError, causes

ROOM = 1_000_000  # bytes without which nothing works: databases and logs need them

FULL = "The disk is full where {} lies; free some space and run again."
READ_ONLY = "The disk is read-only where {} lies; let it be written and run again."

# Python gives a number. Arrow, DuckDB, SQLite and safetensors give a sentence, and so does a process to another.
WORDS_OF_FULL = ("No space left on device", "disk is full", "Disk quota exceeded", "No usable temporary directory")
WORDS_OF_READ_ONLY = ("Read-only file system", "readonly database")


def disk_is_full(error: BaseException) -> bool:
    """Return whether an error, or one behind it, means that a disk or a quota takes no more."""
    return _is(error, {errno.ENOSPC, errno.EDQUOT}, WORDS_OF_FULL)


def full_disk(folders: Sequence[Path], error: BaseException | None = None) -> InputError | None:
    """Return the error of a disk that takes no more, if that is what keeps the program from working; else None.

    Args:
        folders: where the program writes, the most important one first.
        error: what has failed, in whatever words. The disk may have space again meanwhile.
    """
    folders = [folder for folder in folders if folder.exists()]
    temporary = [Path(os.environ.get("TMPDIR") or "/tmp")] if error else []  # noqa: S108 - only looked at
    for folder in [*folders, *temporary]:
        if folder.exists() and _is_full(folder):
            return InputError(FULL.format(folder))
    if error is None:
        sealed = (folder for folder in folders if os.statvfs(folder).f_flag & os.ST_RDONLY)
        return next((InputError(READ_ONLY.format(folder)) for folder in sealed), None)
    names = [Path(os.fsdecode(name)) for each in causes(error) if isinstance(name := _name(each), str | bytes)]
    outside = [name for name in names if not any(name.is_relative_to(folder) for folder in folders)]
    place = next(iter([*outside, *folders]), Path())
    if disk_is_full(error):
        return InputError(FULL.format(place))
    return InputError(READ_ONLY.format(place)) if _is(error, {errno.EROFS}, WORDS_OF_READ_ONLY) else None


def _is_full(folder: Path) -> bool:
    disk = os.statvfs(folder)
    no_more_files = disk.f_files > 0 and disk.f_favail == 0  # some file systems do not count files
    return disk.f_bavail * disk.f_frsize < ROOM or no_more_files


def _name(error: BaseException) -> object:
    return getattr(error, "filename", None)


def _is(error: BaseException, numbers: set[int], words: tuple[str, ...]) -> bool:
    return any(
        getattr(each, "errno", None) in numbers or any(word in str(each) for word in words) for each in causes(error)
    )
