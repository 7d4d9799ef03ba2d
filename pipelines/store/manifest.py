"""A dataset's manifest: what the dataset is, how it was made and which files it has."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import from_json

from pipelines.store.files import file_sha256, sync
from pipelines.store.paths import stays_inside

NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
Name = Annotated[str, Field(pattern=NAME.pattern)]
Digits = Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}/[a-z0-9][a-z0-9._-]{0,62}-[0-9a-f]{12}")
"""The place of a dataset in a store: `kind/name-fingerprint`."""


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


def _check_names(files: Mapping[str, Any]) -> Mapping[str, Any]:
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    for name in files:
        if not stays_inside(name) or name.casefold() == MANIFEST or name in folders:
            raise ValueError(f"{name[:100]!r} names no file in its folder")
    return files


class FileEntry(BaseModel):
    """A file of a dataset, as it was when published."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: Digits

    def damage(self, path: Path) -> str:
        """Return how the file at a path differs from this entry; empty if it does not."""
        try:
            if not path.is_file():
                return "is missing"
            if (size := path.stat().st_size) != self.bytes:
                return f"has {size:,} bytes instead of {self.bytes:,}"
            changed = file_sha256(path) != self.sha256
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return "was changed: its SHA-256 is not the one in the manifest" if changed else ""


def _built(value: dict[str, Any]) -> dict[str, Any]:
    """Return how a dataset was built, which has to tell when, since versions are ordered by it."""
    at = value.get("at")
    if not isinstance(at, str) or datetime.fromisoformat(at).utcoffset() is None:
        raise ValueError("it does not tell when it was built")
    return value


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
    files: Annotated[dict[str, FileEntry], AfterValidator(_check_names)]
    statistics: dict[str, Any]
    code: str
    built: Annotated[dict[str, Any], AfterValidator(_built)]

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Return the manifest that a file holds.

        Raises:
            ValueError: the file is damaged.
        """
        value = from_json(content)
        checksum = value.pop("checksum", None) if isinstance(value, dict) else None
        manifest = cls.model_validate(value)
        if checksum is not None and checksum != _checksum(value):  # earlier versions wrote none
            raise ValueError("its checksum is another")
        if files_digest(manifest.files) != manifest.digest:
            raise ValueError("its digest does not fit its list of files")
        return manifest

    def to_json(self) -> bytes:
        """Return the content of the manifest's file, with a checksum of it."""
        value = json.loads(self.model_dump_json())
        return json.dumps({**value, "checksum": _checksum(value)}, indent=1, ensure_ascii=False).encode()

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


def _checksum(value: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's values, whatever their order and layout in the file."""
    try:
        content = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)  # eight times as fast
    except TypeError:  # an integer of more than 64 bits
        content = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


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
