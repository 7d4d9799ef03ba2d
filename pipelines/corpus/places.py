"""Places in a config: a relative path starts from the folder of the file in which it is written.

A path that somebody types after `--set` starts from the current folder, where a shell completes it. A source is named
for its place as it is written, so a fingerprint does not depend on the folder.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote

from pydantic import BeforeValidator, ValidationInfo

GLOB = frozenset("*?[")
FILE_ADDRESS = re.compile(r"^file:(//(localhost(?=/|$))?)?")
START = "/./"  # separates the folder from what is written, where the name would be another without it


class Typed(str):
    """A text that was typed after `--set`, and is not from the config's file."""

    __slots__ = ()


@dataclass(frozen=True)
class Folders:
    """The folders from which relative paths start, as the context of a config's validation.

    config: that of the config's file.
    typed: for paths after `--set`.
    warn: receives a sentence about a path that is found only where earlier versions looked.
    """

    config: Path
    typed: Path
    warn: Callable[[str], object]


def absolute_place(place: Any, info: ValidationInfo) -> Any:
    """Return a place of a config as an absolute path, if it is a relative one and the config is from a file.

    A path that exists only in the current folder is read from there, with a warning, as before version 0.5.0.
    """
    folders = info.context
    if not isinstance(folders, Folders) or not isinstance(place, str) or not is_local(place):
        return place
    written = FILE_ADDRESS.sub("", place)
    if not written.strip() or written.startswith(("/", "~")):
        return place
    folder = folders.typed if isinstance(place, Typed) else folders.config
    here = Path.cwd()
    fixed = Path(*Path(written).parts[: _fixed_parts(written)])
    if not os.path.lexists(folder / fixed) and os.path.lexists(here / fixed):
        better = os.path.relpath(here / written, folder)
        folders.warn(f"{written} is read from the current folder, because {folder} has none; write {better!r} instead.")
        folder = here
    if written != place:
        return f"file:{quote(str(folder))}/{written}"
    joined = str(folder / written)
    return joined if label_of(joined) == label_of(written) else f"{folder}{START}{written}"


Place = Annotated[str, BeforeValidator(absolute_place)]
"""A file or folder of a config."""


def is_local(uri: str) -> bool:
    """Return whether a URI names a file or folder of this machine, and not an address."""
    return "://" not in uri or uri.startswith("file:")


def label_of(uri: str) -> str:
    """Return the name of a source that has none: the last part of its URI that is not a pattern."""
    written = unquote(uri) if uri.startswith("file:") else uri
    written = written.partition(START)[2] or written
    parts = [part for part in written.split("/") if part and not GLOB & set(part)]
    return parts[-1] if parts else written


def _fixed_parts(path: str) -> int:
    """Return how many parts of a path come before the first pattern."""
    parts = Path(path).parts
    return next((number for number, part in enumerate(parts) if GLOB & set(part)), len(parts))
