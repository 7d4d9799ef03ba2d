"""A dataset's manifest: what the dataset is, how it was made and which files it has."""

import hashlib
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.store.files import file_sha256, sync

NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
Name = Annotated[str, Field(pattern=NAME.pattern)]
Digits = Annotated[str, Field(pattern=r"^[0-9a-f]+$")]


def hexadecimal(text: str) -> bool:
    """Return whether a text may be the first digits of a fingerprint."""
    return len(text) >= 4 and all(c in "0123456789abcdef" for c in text)


class Ref(BaseModel):
    """A reference to one published dataset, for good: how it was made (fingerprint) and what it holds (digest)."""

    model_config = ConfigDict(frozen=True)

    kind: Name
    name: Name
    fingerprint: Digits
    digest: Digits

    @property
    def key(self) -> str:
        """The place of the dataset in the store, as a relative path."""
        return f"{self.kind}/{self.name}-{self.fingerprint[:12]}"

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}@{self.fingerprint[:12]}"


class SourceFile(BaseModel):
    """A file that was read from outside the store. It enters the fingerprint by name and content, not by place."""

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int
    sha256: str


MANIFEST = "manifest.json"


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} names no file in its folder")
    return name


class FileEntry(BaseModel):
    """A file of a dataset, as it was when published."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: Digits

    def damage(self, path: Path, trusted: int = 0) -> str:
        """Return how the file at a path differs from this entry; empty if it does not.

        Args:
            path: the file.
            trusted: a time in nanoseconds. The content of a file that was not written to since then is not read.
        """
        if not path.is_file():
            return "is missing"
        status = path.stat()
        if status.st_size != self.bytes:
            return f"has {status.st_size:,} bytes instead of {self.bytes:,}"
        changed = status.st_mtime_ns > trusted and file_sha256(path) != self.sha256
        return "was changed: its SHA-256 is not the one in the manifest" if changed else ""


class Manifest(BaseModel):
    """What a dataset is, how it was made and what it holds. It is the last file to be written."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    kind: Name
    name: Name
    step: str
    step_version: int
    fingerprint: Digits
    digest: Digits
    config: dict[str, Any]
    inputs: dict[str, Ref]
    sources: tuple[SourceFile, ...] = ()
    files: dict[Annotated[str, AfterValidator(_inside)], FileEntry]
    statistics: dict[str, Any]
    code: str
    built: dict[str, Any]

    @property
    def ref(self) -> Ref:
        """The dataset's name for good."""
        return Ref(kind=self.kind, name=self.name, fingerprint=self.fingerprint, digest=self.digest)

    @property
    def built_at(self) -> datetime:
        """The time when the dataset was built. `built["at"]` orders datasets, and may be later."""
        return datetime.fromisoformat(self.built.get("clock", self.built["at"]))

    @property
    def bytes(self) -> int:
        """The total size of the files."""
        return sum(file.bytes for file in self.files.values())


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Flush every file below a folder to the disk, and return sizes and SHA-256 by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())

    def describe(path: Path) -> FileEntry:
        sync(path)
        return FileEntry(bytes=path.stat().st_size, sha256=file_sha256(path))

    with ThreadPoolExecutor(4) as pool:  # hashing and flushing both release the interpreter
        entries = pool.map(describe, paths)
    return {path.relative_to(folder).as_posix(): entry for path, entry in zip(paths, entries, strict=True)}


def files_digest(files: Mapping[str, FileEntry]) -> str:
    """Return the SHA-256 over names and digests of a dataset's files, which is equal for equal content."""
    lines = "".join(f"{entry.sha256}  {name}\n" for name, entry in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def damaged_files(files: Mapping[str, FileEntry], look: Callable[[str, FileEntry], str | None]) -> list[str]:
    """Return a sentence for each file in which `look` finds a problem, by name."""
    names = sorted(files)
    with ThreadPoolExecutor(4) as pool:  # hashing and reading both release the interpreter
        found = pool.map(look, names, map(files.__getitem__, names))
        return [f"{name} {what}" for name, what in zip(names, found, strict=True) if what]
