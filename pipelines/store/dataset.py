"""A published dataset: a folder, its manifest, and the bucket from which its files are fetched."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from pipelines.errors import InputError
from pipelines.store.bucket import Bucket
from pipelines.store.files import lock, write_synced
from pipelines.store.manifest import MANIFEST, FileEntry, Manifest, Ref, damaged_files


@dataclass(frozen=True)
class Dataset:
    """A published dataset (or model): a folder and its manifest.

    folder: the dataset's place on this machine; its files are fetched there if it is in a bucket.
    """

    folder: Path
    manifest: Manifest
    bucket: Bucket | None = field(default=None, compare=False, repr=False)

    @classmethod
    def load(cls, folder: Path, bucket: Bucket | None = None) -> Dataset | None:
        """Return the dataset in a folder, or None if no manifest is there.

        Raises:
            InputError: the manifest is damaged.
        """
        try:
            return cls.parse(folder, (folder / MANIFEST).read_bytes(), bucket)
        except (FileNotFoundError, NotADirectoryError):
            return None

    @classmethod
    def parse(cls, folder: Path, manifest: bytes, bucket: Bucket | None = None) -> Dataset:
        """Return the dataset that a manifest describes.

        Raises:
            InputError: the manifest is damaged.
        """
        try:
            return cls(folder, Manifest.model_validate_json(manifest), bucket)
        except ValidationError as error:
            raise InputError(
                f"{folder / MANIFEST} cannot be read ({error.errors()[0]['msg']}); delete {folder} and run again."
            ) from None

    @property
    def ref(self) -> Ref:
        """The dataset's name for good."""
        return self.manifest.ref

    @cached_property
    def path(self) -> Path:
        """The folder with all files; the first use fetches them from the bucket, if there is one."""
        if self.bucket:
            self._fetch(self.bucket)
        return self.folder

    @property
    def address(self) -> str:
        """The place where the dataset is published, for people to read."""
        if self.bucket:
            return f"{self.bucket.address}/manifests/{self.ref.key}.json"
        return str(self.folder)

    def file(self, name: str) -> Path:
        """Return the path of one of the dataset's files.

        Raises:
            InputError: the dataset has no such file.
        """
        self._entry(name)
        return self.path / name

    def is_intact(self) -> bool:
        """Return whether every byte of the files is as it was published."""
        return not damaged_files(self.manifest.files, lambda name, entry: entry.damage(self.path / name))

    def open(self, name: str) -> BinaryIO:
        """Open one of the dataset's files to read parts of it; a file in a bucket is not fetched for that."""
        entry, path = self._entry(name), self.folder / name
        if self.bucket and not path.exists():
            return self.bucket.open(entry.sha256)
        return path.open("rb")

    def _fetch(self, bucket: Bucket) -> None:
        """Fetch the files that are missing on this machine or differ from the published ones.

        A file of the published size that was not written to since it was fetched is trusted. Any other file is
        compared with its SHA-256.
        """
        folder, manifest = self.folder, self.manifest
        with lock(folder.parent.parent, f"fetch-{manifest.fingerprint}"):
            here = Dataset.load(folder)
            trusted = (folder / MANIFEST).stat().st_mtime_ns if here and here.manifest == manifest else 0
            trusted = 0 if trusted > time.time_ns() else trusted  # the clock was ahead, so later writes look older
            missing = {
                path: entry.sha256
                for name, entry in manifest.files.items()
                if entry.damage(path := folder / name, trusted)
            }
            if trusted and not missing:
                return
            (folder / MANIFEST).unlink(missing_ok=True)
            bucket.get(missing)
            write_synced(folder / MANIFEST, manifest.model_dump_json(indent=1).encode())

    def _entry(self, name: str) -> FileEntry:
        if name not in self.manifest.files:
            raise InputError(f"{self.ref} has no file {name!r}; it holds {', '.join(self.manifest.files)}.")
        return self.manifest.files[name]

    def __str__(self) -> str:
        return str(self.ref)
