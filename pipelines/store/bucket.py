"""Published datasets in a bucket, through fsspec, shared by all machines that use it.

    <address>/manifests/<kind>/<name>-<fingerprint, 12 digits>.json
    <address>/files/<SHA-256>

A file is stored once, under the digest of its content, no matter how many datasets hold it. A manifest is put in one
request, after all files that it lists, so a dataset is visible whole or not at all. The leftovers of a killed upload
are no dataset, and are not uploaded again.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from pipelines.errors import InputError
from pipelines.store.disks import disk_is_full
from pipelines.store.files import file_sha256, state_of, sync, whole_file
from pipelines.store.manifest import KEY, NAME
from pipelines.store.modes import make_folder, usual_modes
from pipelines.store.paths import inside

TRANSFERS = 8  # files that are transferred at the same time


@dataclass(frozen=True)
class Bucket:
    """A bucket, or a prefix in one, by its address: `s3://bucket/prefix`, or any other that fsspec reaches.

    Methods raise InputError if the bucket cannot be reached or written to.
    """

    address: str

    @cached_property
    def _place(self) -> tuple[fsspec.AbstractFileSystem, str]:
        # A cached listing would hide what another machine has published since.
        options: dict[str, Any] = {"auto_mkdir": True} if self.address.startswith("file://") else {}
        filesystem, root = fsspec.core.url_to_fs(self.address, use_listings_cache=False, **options)
        return filesystem, root.rstrip("/")

    # Manifests

    def manifest(self, key: str) -> bytes | None:
        """Return the manifest of the dataset that is published as `kind/name-fingerprint`, or None."""
        with self._reached() as (filesystem, root):
            try:
                return cast(bytes, filesystem.cat_file(f"{root}/manifests/{key}.json"))
            except FileNotFoundError:
                return None

    def manifests(self, kind: str | None, cache: Path, warn: Callable[[str], None]) -> dict[str, bytes]:
        """Return the manifest of every dataset by `kind/name-fingerprint`; unchanged ones come from the cache.

        Args:
            kind: only return those of this kind.
            cache: the folder of the manifests that were fetched before.
            warn: called once with a sentence if there are keys that no dataset has. They are left out.
        """
        found, missing, foreign = {}, {}, []
        if kind is not None and not NAME.fullmatch(kind):
            return {}
        with self._reached() as (filesystem, root):
            for path, info in filesystem.find(f"{root}/manifests/{kind or ''}", detail=True).items():
                name, is_json = path.removeprefix(f"{root}/manifests/"), path.endswith(".json")
                key = name.removesuffix(".json")
                if not is_json or not KEY.fullmatch(key):
                    foreign += [name] if is_json else []
                    continue
                copy, state = inside(cache, name), f"{self.address} {info['size']} {state_of(info)}\n".encode()
                if content := _cached(copy, state):
                    found[key] = content
                else:
                    missing[path] = (key, copy, state)
            fetched = filesystem.cat(list(missing), on_error="omit") if missing else {}
        if foreign:
            more = f" and {len(foreign) - 1} more" if foreign[1:] else ""
            names = f"{foreign[0][:200]!r}{more}"
            warn(f"{self.address}/manifests holds {names}, which is no dataset's name; it is left out.")
        for path, content in fetched.items():
            key, copy, state = missing[path]
            make_folder(copy.parent)
            with whole_file(copy) as unfinished:
                unfinished.write_bytes(state + content)
            found[key] = content
        return found

    def publish(self, key: str, manifest: bytes) -> None:
        """Make a dataset visible, in place of the one before it. All its files must have been put."""
        with self._reached() as (filesystem, root), self._shared(path := f"{root}/manifests/{key}.json"):
            filesystem.pipe_file(path, manifest)

    def withdraw(self, key: str) -> None:
        """Make a dataset invisible; `delete` removes its files later."""
        with self._reached() as (filesystem, root):
            filesystem.rm_file(f"{root}/manifests/{key}.json")

    # Files

    def put(self, files: Mapping[Path, str]) -> None:
        """Upload files by their SHA-256; files that the bucket has already are skipped."""

        def put_one(path: Path, sha256: str) -> None:
            with self._reached() as (filesystem, root):
                target = f"{root}/files/{sha256}"
                if _size(filesystem, target) != path.stat().st_size:
                    with self._shared(target):
                        filesystem.put_file(str(path), target)

        _side_by_side(put_one, files)

    def get(self, files: Mapping[Path, str]) -> None:
        """Download files by their SHA-256. Each arrives whole or not at all.

        Raises:
            InputError: a file is missing from the bucket, or was changed there.
        """

        def get_one(path: Path, sha256: str) -> None:
            make_folder(path.parent)
            unfinished = path.with_name(f".{path.name}.fetched")
            with self._reached() as (filesystem, root):
                filesystem.get_file(f"{root}/files/{sha256}", str(unfinished))
            if file_sha256(unfinished) != sha256:
                raise InputError(
                    f"{self.address}/files/{sha256} was changed in the bucket, so {path.name} cannot be had; "
                    "run the step that makes it with --rebuild."
                )
            sync(unfinished)
            unfinished.replace(path)

        _side_by_side(get_one, files)

    def open(self, sha256: str) -> BinaryIO:
        """Open a file in the bucket, to read parts of it without fetching the rest."""
        with self._reached() as (filesystem, root):
            return cast(BinaryIO, filesystem.open(f"{root}/files/{sha256}", "rb"))

    def problem(self, sha256: str, size: int) -> str | None:
        """Read every byte of a file and return what is wrong with it, or None."""
        with self._reached() as (filesystem, root):
            found = _size(filesystem, f"{root}/files/{sha256}")
            if found is None:
                return "is missing from the bucket"
            if found != size:
                return f"has {found:,} bytes instead of {size:,}, in the bucket"
            with filesystem.open(f"{root}/files/{sha256}", "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        return None if digest == sha256 else "was changed in the bucket: its SHA-256 is another"

    def files(self) -> set[str]:
        """Return the SHA-256 of every file in the bucket. What is called otherwise is not ours."""
        with self._reached() as (filesystem, root):
            names = (path.removeprefix(f"{root}/files/") for path in filesystem.find(f"{root}/files"))
            return {name for name in names if re.fullmatch("[0-9a-f]{64}", name)}

    def delete(self, files: Iterable[str], hours: float) -> int:
        """Delete files by their SHA-256, except new ones, whose upload may still be under way.

        Args:
            hours: files younger than this are kept.

        Returns:
            The number of deleted files.
        """
        before = datetime.now(UTC) - timedelta(hours=hours)
        with self._reached() as (filesystem, root):
            paths = [f"{root}/files/{sha256}" for sha256 in files]
            modified = {path: filesystem.modified(path) for path in paths}
            old = [path for path, time in modified.items() if time.replace(tzinfo=time.tzinfo or UTC) <= before]
            for path in old:
                filesystem.rm_file(path)
        return len(old)

    # Inside

    def _shared(self, path: str) -> AbstractContextManager[None]:
        """Let a file be written that other users of a bucket in a folder may read, as their umasks say."""
        return usual_modes(Path(path)) if self.address.startswith("file://") else nullcontext()

    @contextmanager
    def _reached(self) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
        try:
            yield self._place
        except InputError:
            raise
        except ImportError:
            raise InputError(f"{self.address} needs a package; for s3:// it is: pip install 'tokenmill[s3]'") from None
        except Exception as error:  # each file system has its own
            if disk_is_full(error):
                raise
            why = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"The data root {self.address} cannot be used ({why}); check TOKENMILL_DATA, the credentials and the "
                "network. What was built is kept on this machine and put there by the next run."
            ) from error


def _side_by_side(work: Callable[[Path, str], None], files: Mapping[Path, str]) -> None:
    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(work, files, files.values()))


def _size(filesystem: fsspec.AbstractFileSystem, path: str) -> int | None:
    try:
        return int(filesystem.info(path)["size"])
    except FileNotFoundError:
        return None


def _cached(copy: Path, state: bytes) -> bytes | None:
    """Return the cached copy of a manifest if the manifest is still in this state."""
    try:
        content = copy.read_bytes()
    except FileNotFoundError:
        return None
    return content.removeprefix(state) if content.startswith(state) else None
