"""A published dataset: a folder, its manifest, and the bucket from which its files are fetched."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from pipelines.errors import InputError
from pipelines.store.bucket import Bucket
from pipelines.store.files import lock, write_synced
from pipelines.store.intact import Compared, Damaged, damaged
from pipelines.store.manifest import MANIFEST, FileEntry, Manifest, Ref
from pipelines.store.paths import inside


@dataclass(frozen=True)
class Dataset:
    """A published dataset (or model): a folder and its manifest.

    folder: the dataset's place on this machine; its files are fetched there if it is in a bucket.
    """

    folder: Path
    manifest: Manifest
    bucket: Bucket | None = field(default=None, compare=False, repr=False)

    @classmethod
    def load(cls, folder: Path | str, bucket: Bucket | None = None, moved: bool = False) -> Dataset | None:
        """Return the dataset in a folder, or None if no manifest is there.

        Args:
            folder: the dataset's place in a store.
            bucket: where its files are fetched from.
            moved: the folder is not at its place, and may have another name than its dataset.

        Raises:
            Damaged: the manifest is damaged.
        """
        folder = Path(folder)
        try:
            return cls.parse(folder, (folder / MANIFEST).read_bytes(), bucket, moved)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(folder, str(error.strerror), bucket) from None

    @classmethod
    def parse(cls, folder: Path, manifest: bytes, bucket: Bucket | None = None, moved: bool = False) -> Dataset:
        """Return the dataset that a manifest describes. The arguments are those of `load`.

        Raises:
            Damaged: the manifest is damaged, or that of another dataset than the folder's.
        """
        try:
            dataset = cls(folder, Manifest.parse(manifest), bucket)
            if not moved and (key := "/".join(folder.parts[-2:])) != dataset.ref.key:
                place = f"{bucket.address}/manifests/{key}.json" if bucket else folder / MANIFEST
                raise Damaged(f"{place} belongs to {dataset.ref.key}, so it is left out; move it back or delete it.")
            return dataset
        except ValidationError as error:
            raise _unreadable(folder, error.errors()[0]["msg"], bucket) from None
        except ValueError as error:
            raise _unreadable(folder, str(error), bucket) from None

    @property
    def ref(self) -> Ref:
        """The dataset's name for good."""
        return self.manifest.ref

    @cached_property
    def path(self) -> Path:
        """The folder with all files, as they were published; the first use fetches them from the bucket, if any.

        Raises:
            Damaged: a file is damaged.
        """
        if self.bucket:
            self._fetch(self.bucket)
        else:
            self._check(self.manifest.files)
        return self.folder

    @property
    def address(self) -> str:
        """The place where the dataset is published, for people to read."""
        if self.bucket:
            return f"{self.bucket.address}/manifests/{self.ref.key}.json"
        return str(self.folder)

    def file(self, name: str) -> Path:
        """Return the path of one of the dataset's files, as it was published.

        Raises:
            Damaged: the file is damaged.
            InputError: the dataset has no such file, or a link leads out of its folder.
        """
        self._entry(name)
        return self._paths([name])[0]

    def files(self, pattern: str) -> list[Path]:
        """Return the paths of the files that match a pattern, by name, as they were published.

        Raises:
            Damaged: a file is damaged.
            InputError: a link leads out of the dataset's folder.
        """
        return self._paths(self.names(pattern))

    def names(self, pattern: str) -> list[str]:
        """Return the names of the files that match a pattern, in order."""
        return sorted(fnmatch.filter(self.manifest.files, pattern))

    def is_intact(self) -> bool:
        """Return whether all files are as they were published. Those that nobody touched since are not read again."""
        if self.bucket:
            self._fetch(self.bucket)
        return not self.compared.problems(self.manifest.files)

    def open(self, name: str) -> BinaryIO:
        """Open one of the dataset's files to read parts of it; a file in a bucket is not fetched for that.

        Raises:
            Damaged: the file is damaged. A file in a bucket is not checked.
        """
        entry, path = self._entry(name), inside(self.folder, name)
        if self.bucket and not path.exists():
            return self.bucket.open(entry.sha256)
        self._check([name])
        return path.open("rb")

    @cached_property
    def compared(self) -> Compared:
        """The memory of the files that were compared with their SHA-256."""
        return Compared(self.folder, remembered="/".join(self.folder.parts[-2:]) == self.ref.key)

    def _paths(self, names: Sequence[str]) -> list[Path]:
        if self.bucket:
            folder = self.path
            return [inside(folder, name) for name in names]
        paths = [inside(self.folder, name) for name in names]
        self._check(names)
        return paths

    def _check(self, names: Iterable[str]) -> None:
        problems = self.compared.problems({name: self.manifest.files[name] for name in names})
        for name, what in problems.items():
            raise self.damaged(name, f"it {what}")

    def damaged(self, name: str, why: str) -> Damaged:
        """Return the error for one of the dataset's files that is damaged."""
        return damaged(self.folder / name, self, why)

    def _fetch(self, bucket: Bucket) -> None:
        """Fetch the files that are missing on this machine or differ from the published ones."""
        folder, manifest = self.folder, self.manifest
        with lock(folder.parent.parent, f"fetch-{manifest.fingerprint}"):
            problems = self.compared.problems(manifest.files)
            if not problems and _manifest_in(folder) == manifest:
                return
            for path in (folder / MANIFEST, *(inside(folder, name) for name in problems)):
                if path.is_dir():
                    shutil.rmtree(path)
            (folder / MANIFEST).unlink(missing_ok=True)
            bucket.get({inside(folder, name): manifest.files[name].sha256 for name in problems})
            write_synced(folder / MANIFEST, manifest.to_json())
            self.compared.remember(manifest.files)

    def _entry(self, name: str) -> FileEntry:
        if name not in self.manifest.files:
            raise InputError(f"{self.ref} has no file {name!r}; it holds {', '.join(self.manifest.files)}.")
        return self.manifest.files[name]

    def __str__(self) -> str:
        return str(self.ref)


def _manifest_in(folder: Path) -> Manifest | None:
    try:
        here = Dataset.load(folder)
    except Damaged:
        return None
    return here.manifest if here else None


def _unreadable(folder: Path, why: str, bucket: Bucket | None) -> Damaged:
    """Return the error for a manifest that is damaged, in a folder or in a bucket."""
    name, _, digits = folder.name.rpartition("-")
    place = f"{bucket.address}/manifests/{folder.parent.name}/{folder.name}.json" if bucket else folder / MANIFEST
    why = f"{why.strip().rstrip('.')}; delete {place if bucket else folder} and run again"
    return damaged(place, f"{folder.parent.name}/{name}@{digits}", why)
