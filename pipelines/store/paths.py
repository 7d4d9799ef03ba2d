"""Paths from data: names that somebody else wrote, joined to a folder that they cannot leave.

Keys of a bucket, the files of a manifest and the names in a published table pass here. So they mean the same on every
system, whatever is written in them.
"""

import os
import re
import unicodedata
from pathlib import Path

from pipelines.errors import InputError

LONGEST_PART, LONGEST = 200, 1000  # bytes; names of unfinished files are longer, and systems allow 255 and 4096


def inside(folder: Path, name: str) -> Path:
    """Return the path that a name from data has in a folder.

    Raises:
        InputError: the name, or a link in the folder, leads out of the folder.
    """
    if stays_inside(name):
        path = folder / name
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            return path
    raise InputError(f"{name[:100]!r} names no file in {folder}, so it is not used; find out who wrote that name.")


def nearest_existing(path: Path) -> Path:
    """Return a path, or the nearest folder around it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def stays_inside(name: str) -> bool:
    """Return whether a name is a relative path that leaves its folder on no system, in none of its spellings.

    Control characters, invisible characters and backslashes are refused, and so is what Windows or a disk that
    normalises Unicode would take for `..`, for a drive or for another number of parts.
    """
    plain = unicodedata.normalize("NFKC", name)
    if any(unicodedata.category(sign)[0] == "C" or sign in "\\\u2028\u2029" for sign in name + plain):
        return False
    if re.match("[A-Za-z]:", plain) or name.count("/") != plain.count("/") or len(name.encode()) > LONGEST:
        return False
    parts = [*name.split("/"), *plain.split("/")]
    return all(part.strip(" .") and len(part.encode()) <= LONGEST_PART for part in parts)
