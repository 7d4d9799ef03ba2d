"""Published datasets in a bucket, through fsspec: what one machine publishes, every other one finds.

    <address>/manifests/<kind>/<name>-<fingerprint, 12 digits>.json
    <address>/files/<SHA-256>

A file lies under the digest of its content, once, whichever datasets hold it. A manifest is put after all files that
it lists, in one request, so a dataset is there whole or not at all; and what a killed upload leaves behind is no
dataset, and need not be uploaded again.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from threading import get_ident
from typing import Any, BinaryIO, cast

import fsspec

from pipelines.errors import InputError
from pipelines.store.files import state_of

AT_ONCE = 8  # files that travel side by side


@dataclass(frozen=True)
class Bucket:
    """A bucket, or a prefix in one, by its address: `s3://bucket/prefix`, or what else fsspec reaches.

    Methods raise InputError if it cannot be reached, or not be written to.
    """

    address: str

    @cached_property
    def _place(self) -> tuple[fsspec.AbstractFileSystem, str]:
        # A listing from a minute ago would hide what another machine has published since.
        options: dict[str, Any] = {"auto_mkdir": True} if self.address.startswith("file://") else {}
        filesystem, root = fsspec.core.url_to_fs(self.address, use_listings_cache=False, **options)
        return filesystem, root.rstrip("/")

    # Manifests

    def manifest(self, folder: str) -> bytes | None:
        """The manifest of the dataset that is published as `kind/name-fingerprint`, or None."""
        with self._reached() as (filesystem, root):
            try:
                return cast(bytes, filesystem.cat_file(f"{root}/manifests/{folder}.json"))
            except FileNotFoundError:
                return None

    def manifests(self, kind: str | None, cache: Path) -> dict[str, bytes]:
        """The manifest of every dataset, by `kind/name-fingerprint`; those that did not change come from the cache."""
        with self._reached() as (filesystem, root):
            top = f"{root}/manifests/"
            listed = filesystem.find(top + (kind or ""), detail=True)
            states = {
                path: f"{self.address} {info['size']} {state_of(info)}\n".encode() for path, info in listed.items()
            }
            copies = {path: cache / path.partition("/manifests/")[2] for path in listed if path.endswith(".json")}
            known = {path: content for path, copy in copies.items() if (content := _cached(copy, states[path]))}
            missing = [path for path in copies if path not in known]
            fetched = filesystem.cat(missing, on_error="omit") if missing else {}
        for path, content in fetched.items():
            copies[path].parent.mkdir(parents=True, exist_ok=True)
            whole = copies[path].with_suffix(f".{os.getpid()}-{get_ident()}")
            whole.write_bytes(states[path] + content)
            whole.replace(copies[path])
        everything = known | fetched
        return {
            copy.relative_to(cache).with_suffix("").as_posix(): everything[path]
            for path, copy in copies.items()
            if path in everything
        }

    def publish(self, folder: str, manifest: bytes) -> None:
        """Make a dataset visible, whose files have all been put; or replace the one that was."""
        with self._reached() as (filesystem, root):
            filesystem.pipe_file(f"{root}/manifests/{folder}.json", manifest)

    def withdraw(self, folder: str) -> None:
        """Make a dataset invisible; `sweep` deletes its files."""
        with self._reached() as (filesystem, root):
            filesystem.rm_file(f"{root}/manifests/{folder}.json")

    # Files

    def put(self, files: Mapping[Path, str]) -> None:
        """Upload files, whose SHA-256 are given; those that are there already do not travel."""

        def put_one(path: Path, sha256: str) -> None:
            with self._reached() as (filesystem, root):
                target = f"{root}/files/{sha256}"
                if _size(filesystem, target) != path.stat().st_size:
                    filesystem.put_file(str(path), target)

        _side_by_side(put_one, files)

    def get(self, files: Mapping[Path, str]) -> None:
        """Download files, whose SHA-256 are given. Each is there whole or not at all.

        Raises:
            InputError: a file in the bucket is gone, or is no longer what was put there.
        """

        def get_one(path: Path, sha256: str) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}.fetched")
            with self._reached() as (filesystem, root):
                filesystem.get_file(f"{root}/files/{sha256}", str(unfinished))
            with unfinished.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise InputError(
                        f"{self.address}/files/{sha256} was changed in the bucket, so {path.name} cannot be had; "
                        "run the step that makes it with --rebuild."
                    )
                os.fsync(file.fileno())
            unfinished.replace(path)

        _side_by_side(get_one, files)

    def open(self, sha256: str) -> BinaryIO:
        """A file in the bucket, to read parts of it without fetching the rest."""
        with self._reached() as (filesystem, root):
            return cast(BinaryIO, filesystem.open(f"{root}/files/{sha256}", "rb"))

    def problem(self, sha256: str, size: int) -> str | None:
        """What is wrong with a file, every byte of which is read; None if nothing is."""
        with self._reached() as (filesystem, root):
            found = _size(filesystem, f"{root}/files/{sha256}")
            if found is None:
                return "is missing from the bucket"
            if found != size:
                return f"has {found:,} bytes instead of {size:,}, in the bucket"
            digest = hashlib.sha256()
            with filesystem.open(f"{root}/files/{sha256}", "rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        return None if digest.hexdigest() == sha256 else "was changed in the bucket: its SHA-256 is another"

    def files(self) -> set[str]:
        """The SHA-256 of every file that is there."""
        with self._reached() as (filesystem, root):
            return {path.rpartition("/")[2] for path in filesystem.find(f"{root}/files")}

    def delete(self, files: Iterable[str], hours: float) -> int:
        """Delete files, unless they are so new that their upload may still be under way; returns how many."""
        before = datetime.now(UTC) - timedelta(hours=hours)
        with self._reached() as (filesystem, root):
            paths = [f"{root}/files/{sha256}" for sha256 in files]
            old = [path for path in paths if _aware(filesystem.modified(path)) <= before]
            for path in old:
                filesystem.rm_file(path)
        return len(old)

    # Inside

    @contextmanager
    def _reached(self) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
        try:
            yield self._place
        except InputError:
            raise
        except ImportError:
            raise InputError(f"{self.address} needs a package; for s3:// it is: pip install 'tokenmill[s3]'") from None
        except Exception as error:  # each file system has its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            why = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"The data root {self.address} cannot be used ({why}); check TOKENMILL_DATA, the credentials and the "
                "network. What was built is kept on this machine and put there by the next run."
            ) from error


def _side_by_side(work: Callable[[Path, str], None], files: Mapping[Path, str]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, files, files.values()))


def _size(filesystem: fsspec.AbstractFileSystem, path: str) -> int | None:
    try:
        return int(filesystem.info(path)["size"])
    except FileNotFoundError:
        return None


def _cached(copy: Path, state: bytes) -> bytes | None:
    """A manifest as it was read before, if it was in the state in which it is now."""
    try:
        content = copy.read_bytes()
    except FileNotFoundError:
        return None
    return content.removeprefix(state) if content.startswith(state) else None


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
