"""The addresses of sources: for some of the files that a folder holds, URIs that name these and no others."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pipelines.corpus.places import GLOB, is_local
from pipelines.corpus.readers.compression import COMPRESSIONS
from pipelines.corpus.sources import File, path_of

MOST = 12  # files that a config names one by one


def absolute(uri: str) -> str:
    """Return a URI that names the same from every folder: a local path from the root on.

    A glob keeps its pattern, and special signs of the current folder are escaped.
    """
    if not is_local(uri):
        return uri
    path = path_of(uri)
    if path.is_absolute() or path.exists() or not GLOB & set(str(path)):
        return os.path.abspath(path)  # noqa: PTH100 - it resolves no links
    return f"{glob.escape(str(Path.cwd()))}/{path}"


def folder_of(uri: str) -> Path | None:
    """Return the local folder that a URI names, or that a glob searches; None for a file or another address."""
    if "://" in uri:
        return None
    path = Path(uri)
    if path.is_dir():
        return path
    return None if path.is_file() else next(folder for folder in path.parents if not GLOB & set(str(folder)))


def extension(name: str) -> str:
    """Return the extension of a file's name as it is written, with that of its compression: `csv.gz`."""
    suffixes = [suffix.lstrip(".") for suffix in PurePosixPath(name).suffixes]
    packed = [suffixes.pop()] if suffixes and suffixes[-1].lower() in COMPRESSIONS else []
    usual = [suffixes[-1]] if suffixes and re.fullmatch(r"\w{1,10}", suffixes[-1]) else []
    return ".".join([*usual, *packed])


def addresses(files: Sequence[File], every: Sequence[File], uri: str) -> list[str]:
    """Return URIs that together name some of the files that a URI names.

    They are the URI itself, a folder in it, a glob of an extension, or single files. If these are too many, the last
    one names more files than are wanted.
    """
    if len(files) == len(every):
        return [uri]
    base = every[0].uri.removesuffix(every[0].name).rstrip("/")
    names, others = {file.name for file in files}, {file.name for file in every}
    folder = os.path.commonpath([str(PurePosixPath(name).parent) for name in names]).strip(".")
    inside = {name for name in others if not folder or name.startswith(f"{folder}/")}
    place = f"{base}/{folder}" if folder else base
    if inside == names and folder:
        return [place]
    extensions = {extension(name) for name in names}
    if len(extensions) == 1 and (ending := next(iter(extensions))):
        pattern = f"{glob.escape(place)}/**/*.{ending}"
        if {name for name in inside if name.endswith(f".{ending}")} == names or len(names) > MOST:
            return [pattern] if len(names) > 1 else [files[0].uri]
    return [file.uri for file in files] if len(files) <= MOST else [place]
