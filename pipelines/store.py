"""The step store: every dataset and model that was published, each an immutable folder with a manifest.

    data/<kind>/<name>-<fingerprint, 12 digits>/manifest.json and the files it lists

Publishing is one rename, so a reader sees all of a dataset or none of it. A step builds under a lock of its own:
who comes second waits and finds the result. The lock is the operating system's, so it ends with its owner, and a
staging folder whose lock is free belongs to nobody and is swept.

With a bucket, that is where datasets are, and the folder is a cache: what is published here is put there, and what is
there is fetched when it is first used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO
from uuid import uuid4

from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipelines.bucket import Bucket
from pipelines.errors import InputError
from pipelines.step import Digits, Name, Ref, SourceFile, Step, code_digest

MANIFEST = "manifest.json"
DONE = "done.json"  # in the folder of a partition that is done


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


class Manifest(BaseModel):
    """What a dataset is, how it was made and what it holds. The last file to be written, and the truth about it."""

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
        return Ref(kind=self.kind, name=self.name, fingerprint=self.fingerprint, digest=self.digest)

    @property
    def folder(self) -> str:
        """Where the dataset lies below the store's root, as a relative path."""
        return f"{self.kind}/{self.name}-{self.fingerprint[:12]}"

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())


@dataclass(frozen=True)
class Dataset:
    """A published dataset (or model): a folder and its manifest.

    folder: where it lies on this machine, or will when it is fetched from the store's bucket.
    """

    folder: Path
    manifest: Manifest
    store: Store | None = field(default=None, compare=False, repr=False)

    @property
    def ref(self) -> Ref:
        return self.manifest.ref

    @cached_property
    def path(self) -> Path:
        """Its folder, in which all its files now are."""
        if self.store and self.store.bucket:
            self.store.fetch(self)
        return self.folder

    @property
    def address(self) -> str:
        """Where it is published, for people to read."""
        bucket = self.store.bucket if self.store else None
        return f"{bucket.address}/manifests/{self.manifest.folder}.json" if bucket else str(self.folder)

    def file(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            InputError: the dataset has no such file.
        """
        self._entry(name)
        return self.path / name

    def is_intact(self) -> bool:
        """Whether every byte of its files is as it was published."""
        return not any(_problems(self.path, self.manifest.files))

    def open(self, name: str) -> BinaryIO:
        """One of its files, to read some of it: what lies in a bucket only is not fetched for that."""
        entry, path = self._entry(name), self.folder / name
        if self.store and self.store.bucket and not path.exists():
            return self.store.bucket.open(entry.sha256)
        return path.open("rb")

    def _entry(self, name: str) -> FileEntry:
        if name not in self.manifest.files:
            raise InputError(f"{self.ref} has no file {name!r}; it holds {', '.join(self.manifest.files)}.")
        return self.manifest.files[name]

    def __str__(self) -> str:
        return str(self.ref)


class Store:
    """Published datasets under one folder, or in a bucket of which the folder is a cache."""

    def __init__(self, root: Path | str, bucket: Bucket | None = None) -> None:
        self.root = Path(root)
        self.bucket = bucket

    @property
    def address(self) -> str:
        """Where its datasets are, for people to read."""
        return self.bucket.address if self.bucket else str(self.root)

    # Building

    def build(
        self,
        step: Step,
        run: Callable[[Path, Path], dict[str, Any]],
        *,
        built_by: Mapping[str, Any] | None = None,
        rebuild: bool = False,
        on_wait: Callable[[], None] | None = None,
    ) -> Dataset:
        """Return the step's result, running it only if it is not published yet.

        Args:
            step: what to build.
            run: (output folder, scratch folder) -> statistics. The output folder is empty; the scratch folder is
                as the last attempt at this very step left it.
            built_by: written into the manifest as it is (run ids, for example).
            rebuild: run the step though its result is published, and put the new result in the old one's place.
            on_wait: called once if another process is building the same step; its result is then taken.

        Raises:
            InputError: the disk filled up.
        """
        before = self.find(step)
        if before and not rebuild:
            return before
        with self._room_for(step), self._lock(step.fingerprint, on_wait):
            published = self.find(step)
            if published and (published != before or not rebuild):  # somebody built it just now
                return published
            started = time.perf_counter()
            staging = self._folder(".staging", step.fingerprint, empty=True)
            scratch = self._folder(".scratch", step.fingerprint)
            try:
                statistics = run(staging, scratch)
                built = {
                    "at": self._now(step).isoformat(timespec="milliseconds"),
                    "seconds": round(time.perf_counter() - started, 3),
                    **(built_by or {}),
                }
                dataset = self._publish(step, staging, statistics, built, replace=published)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)
            return dataset

    def _now(self, step: Step) -> datetime:
        """The time; should the clock have gone back, just after the newest version, which this one then follows."""
        try:
            before = [d.manifest.built["at"] for d in self.list(step.type.kind) if d.ref.name == step.name]
        except InputError:
            if not self.bucket:
                raise
            before = []  # a bucket that is away for a moment must not cost what was just built
        newest = datetime.fromisoformat(max(before)) + timedelta(milliseconds=1) if before else datetime.min
        return max(datetime.now(UTC), newest.replace(tzinfo=UTC))

    def _publish(
        self, step: Step, staging: Path, statistics: dict[str, Any], built: dict[str, Any], replace: Dataset | None
    ) -> Dataset:
        files = describe_files(staging)
        manifest = Manifest(
            kind=step.type.kind,
            name=step.name,
            step=step.type.name,
            step_version=step.type.version,
            fingerprint=step.fingerprint,
            digest=files_digest(files),
            config=step.config.model_dump(mode="json"),
            inputs=dict(step.inputs),
            sources=step.sources,
            files=files,
            statistics=statistics,
            code=code_digest(step.type.modules),
            built=built,
        )
        write_synced(staging / MANIFEST, manifest.model_dump_json(indent=1).encode())
        _sync_folders(staging)
        target = self.root / step.folder
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.bucket and not (target / MANIFEST).exists():
            shutil.rmtree(target, ignore_errors=True)  # of a fetch that did not end
        old = self._bury(replace, "replaced") if replace and target.exists() else None
        try:
            os.rename(staging, target)
        except OSError:
            if found := self.find(step):  # where locks do not work (some network disks) another process was first
                return found
            if target.exists():
                raise InputError(f"{target} is in the way: it has no {MANIFEST}; delete it and run again.") from None
            raise
        _sync(target.parent)
        if old:
            shutil.rmtree(old)
        return self._share(Dataset(target, manifest, self), replace=replace is not None)

    def remove(self, dataset: Dataset) -> None:
        """Take a published dataset out of the store: gone in one step, its bytes freed after."""
        if self.bucket:
            self.bucket.withdraw(dataset.manifest.folder)
        if dataset.folder.exists():
            shutil.rmtree(self._bury(dataset, "removed"))

    def _bury(self, dataset: Dataset, why: str) -> Path:
        """Move a published dataset out of sight, into a folder that the next sweep deletes or brings back."""
        grave = self._folder(".staging", f"{why}-{dataset.ref.fingerprint}", empty=True)
        os.rename(dataset.folder, grave / "dataset")
        return grave

    def sweep(self, checkpoint_days: float = math.inf) -> list[str]:
        """Delete what dead processes left: staging folders, and checkpoints of steps that got published after all.

        Args:
            checkpoint_days: also delete checkpoints that nothing has gone on from for so long.
        """
        swept = []
        published = {path.name.rpartition("-")[2] for path in self.root.glob("[!.]*/*-*")}
        for leftover in [*self.root.glob(".staging/*"), *self.root.glob(".scratch/*")]:
            why, _, fingerprint = leftover.name.rpartition("-")
            unfinished = leftover.parent.name == ".scratch" and fingerprint[:12] not in published
            try:
                if unfinished and _days_since_written(leftover) <= checkpoint_days:
                    continue  # checkpoints of a step that may yet be run again
                with self._lock(fingerprint, timeout=0):
                    if why == "replaced":
                        self._bring_back(leftover / "dataset")
                    shutil.rmtree(leftover)
            except (Timeout, FileNotFoundError):
                continue  # its owner is alive, or another process has swept it
            swept.append(leftover.name)
        return swept

    def _bring_back(self, old: Path) -> None:
        """Put a dataset back whose replacement died before it was in place."""
        if (dataset := self._load(old)) and not (target := self.root / dataset.manifest.folder).exists():
            os.rename(old, target)

    # Finding

    def find(self, step: Step) -> Dataset | None:
        """The step's published result, or None."""
        if found := self._published(step.folder):
            return found
        # What was published here while there was no bucket, or none that could be reached, is put there now.
        here = self._load(self.root / step.folder) if self.bucket else None
        if here and self._verify_folder(here):
            shutil.rmtree(self._bury(here, "removed"))
            return None
        return here and self._share(here)

    def open(self, reference: str | Ref, kind: str | None = None) -> Dataset:
        """The dataset that a reference names; the newest, if it fits several versions.

        Args:
            reference: `name`, `kind/name`, a fingerprint or the first digits of one, or either of the first two
                (or a kind) with `@fingerprint` behind it.
            kind: only look among these.

        Raises:
            InputError: nothing fits, or a fingerprint's first digits fit more than one.
        """
        if isinstance(reference, Ref):
            found = self._published(f"{reference.kind}/{reference.name}-{reference.fingerprint[:12]}")
            if not found:
                raise InputError(f"{reference} is not in {self.address}; run the step that makes it again.")
            return found
        what, _, digits = reference.partition("@")
        head, slash, name = what.rpartition("/")
        candidates = [
            dataset
            for dataset in self.list(kind)
            if dataset.ref.fingerprint.startswith(digits)
            and (dataset.ref.kind == head if slash else True)
            and (name in (dataset.ref.name, dataset.ref.kind) or (not digits and _starts(dataset, name)))
        ]
        exact = [dataset for dataset in candidates if name in (dataset.ref.name, dataset.ref.kind)]
        candidates = exact or candidates
        if not candidates:
            among = f"{kind} datasets" if kind else "published datasets"
            raise InputError(
                f"Nothing called {reference!r} among the {among} in {self.address}; see `tokenmill datasets ls`."
            )
        if (digits or not exact) and len({dataset.ref.fingerprint for dataset in candidates}) > 1:
            raise InputError(f"{reference!r} fits {len(candidates)} datasets; give more digits of the fingerprint.")
        return candidates[-1]

    def verify(self, dataset: Dataset) -> list[str]:
        """What is wrong with a dataset's files, a sentence each; empty if every byte is as it was published.

        With a bucket, every file in it is read, and the copy on this machine if there is one. A copy that is damaged
        is fetched again when it is next used.
        """
        manifest = dataset.manifest
        problems: list[str] = []
        if self.bucket:
            look = self.bucket.problem
            with ThreadPoolExecutor(4) as pool:
                found = pool.map(lambda entry: look(entry.sha256, entry.bytes), manifest.files.values())
                problems = [f"{name} {what}" for name, what in zip(manifest.files, found, strict=True) if what]
            if (dataset.folder / MANIFEST).exists() and (here := self._verify_folder(dataset)):
                (dataset.folder / MANIFEST).unlink()
                problems += [f"{problem}, in the copy on this machine" for problem in here]
        else:
            problems += self._verify_folder(dataset)
        if (lies := "/".join(dataset.folder.parts[-2:])) != manifest.folder:
            problems.append(f"it lies in {lies} instead of {manifest.folder}")
        if files_digest(manifest.files) != manifest.digest:
            problems.append(f"{MANIFEST} was changed: its digest does not fit its list of files")
        return problems

    def _verify_folder(self, dataset: Dataset) -> list[str]:
        present = {path.relative_to(dataset.folder).as_posix() for path in dataset.folder.rglob("*") if path.is_file()}
        foreign = sorted(present - {*dataset.manifest.files, MANIFEST})
        return [
            *_problems(dataset.folder, dataset.manifest.files),
            *(f"{name} does not belong to it" for name in foreign),
        ]

    def list(self, kind: str | None = None) -> list[Dataset]:
        """All published datasets, oldest first."""
        if self.bucket:
            manifests = self.bucket.manifests(kind, self._folder(".manifests", ""))
            found = [self._parse(self.root / folder, content) for folder, content in manifests.items()]
        else:
            paths = [path for path in self.root.glob("[!.]*/*-*") if kind in (None, path.parent.name)]
            found = [dataset for path in paths if (dataset := self._load(path))]
        return sorted(found, key=lambda dataset: (dataset.manifest.built["at"], str(dataset.folder)))

    def changed_code(self, step: Step, dataset: Dataset) -> bool:
        """Whether the step's code is no longer the code that built this dataset, at the same version number."""
        return dataset.manifest.code != code_digest(step.type.modules)

    def lock(self, name: str) -> FileLock:
        """The lock of that name between processes. It ends with its holder, however that one dies."""
        return FileLock(self._folder(".locks", "") / f"{name}.lock")

    def locks(self, prefix: str) -> tuple[Path, ...]:
        """The files of the locks whose names begin so, whether somebody holds them or left them behind."""
        return tuple((self.root / ".locks").glob(f"{prefix}*.lock"))

    # The bucket

    def fetch(self, dataset: Dataset) -> None:
        """Make sure that a dataset's files are on this machine, as they were published.

        Files of the published size that were not written to since they were fetched are taken as they are; others
        are compared with their SHA-256, and fetched if that is not theirs.
        """
        assert self.bucket
        folder, manifest = dataset.folder, dataset.manifest
        with self.lock(f"fetch-{dataset.ref.fingerprint}"):
            here = self._load(folder)
            trusted = (folder / MANIFEST).stat().st_mtime_ns if here and here.manifest == manifest else 0
            missing = {
                path: entry.sha256
                for name, entry in manifest.files.items()
                if _problem(path := folder / name, entry, trusted)
            }
            if trusted and not missing:
                return
            (folder / MANIFEST).unlink(missing_ok=True)
            self.bucket.get(missing)
            write_synced(folder / MANIFEST, manifest.model_dump_json(indent=1).encode())

    def sweep_bucket(self, hours: float = 24) -> int:
        """Delete files in the bucket that belong to no dataset and are older than that; returns how many."""
        if not self.bucket:
            return 0
        there = self.bucket.files()  # before the manifests, so that what is published meanwhile stays
        wanted = {entry.sha256 for dataset in self.list() for entry in dataset.manifest.files.values()}
        return self.bucket.delete(there - wanted, hours)

    def _share(self, dataset: Dataset, replace: bool = False) -> Dataset:
        """Put what was published in the folder into the bucket, unless another machine was first."""
        if not self.bucket:
            return dataset
        if not replace and (theirs := self._published(dataset.manifest.folder)):
            return theirs
        self.bucket.put({dataset.folder / name: entry.sha256 for name, entry in dataset.manifest.files.items()})
        self.bucket.publish(dataset.manifest.folder, (dataset.folder / MANIFEST).read_bytes())
        return dataset

    def _published(self, folder: str) -> Dataset | None:
        if not self.bucket:
            return self._load(self.root / folder)
        content = self.bucket.manifest(folder)
        return self._parse(self.root / folder, content) if content else None

    # Inside

    @contextmanager
    def _room_for(self, step: Step) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not disk_is_full(error):
                raise
            raise InputError(
                f"The disk filled up while {step} was built, of which nothing is published; free some space where "
                f"{self.root} lies and run again: what was done so far is taken up."
            ) from error

    def _load(self, path: Path) -> Dataset | None:
        try:
            return self._parse(path, (path / MANIFEST).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _parse(self, path: Path, manifest: bytes) -> Dataset:
        try:
            return Dataset(path, Manifest.model_validate_json(manifest), self)
        except ValidationError as error:
            raise InputError(
                f"{path / MANIFEST} cannot be read ({error.errors()[0]['msg']}); delete {path} and run again."
            ) from None

    def _folder(self, area: str, name: str, empty: bool = False) -> Path:
        folder = self.root / area / name
        if empty and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def _lock(self, fingerprint: str, on_wait: Callable[[], None] | None = None, timeout: float = -1) -> Iterator[None]:
        """Hold the fingerprint's lock; `on_wait` is called if somebody else has it."""
        lock = self.lock(fingerprint)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if timeout == 0:
                raise
            if on_wait:
                on_wait()
            lock.acquire(timeout=timeout)
        try:
            yield
        finally:
            lock.release()


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of every file below a folder, by relative path; each is flushed to disk on the way."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())

    def describe(path: Path) -> FileEntry:
        _sync(path)
        return FileEntry(bytes=path.stat().st_size, sha256=file_sha256(path))

    with ThreadPoolExecutor(4) as pool:  # hashing and flushing both release the interpreter
        entries = pool.map(describe, paths)
    return {path.relative_to(folder).as_posix(): entry for path, entry in zip(paths, entries, strict=True)}


def files_digest(files: Mapping[str, FileEntry]) -> str:
    """SHA-256 over names and digests of a dataset's files: equal for equal content, whoever made it and when."""
    lines = "".join(f"{entry.sha256}  {name}\n" for name, entry in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields where to write a file, which is whole or absent then. Two that write the same at once do not meet."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Write a file so that it is whole or absent whatever happens, and on the disk when this returns."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
        _sync(temporary)
    _sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON for people and programs, atomically."""
    write_synced(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def say_done(folder: Path, value: Any) -> None:
    """Write down that a partition's folder has all that belongs into it, and a value."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if not path.name.startswith(".")}
    write_json(folder / DONE, {"bytes": sizes, "value": value})


def said_done(folder: Path) -> Any:
    """The value that was written down of a folder; none if it is not done.

    To flush every file of it before would take time that is lost only if the power is cut; a file that was not on the
    disk is then shorter than it was.
    """
    if not (folder / DONE).exists():
        return None
    said = json.loads((folder / DONE).read_text())
    with suppress(FileNotFoundError):
        if all((folder / name).stat().st_size == size for name, size in said["bytes"].items()):
            return said["value"]
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folders(folder: Path) -> None:
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _sync(path)


def disk_is_full(error: Exception) -> bool:
    """Whether an error came of a disk, or a quota, without room."""
    # Arrow and Python give a number; DuckDB, SQLite and safetensors a sentence.
    by_number = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return by_number or any(words in str(error) for words in ("No space left on device", "disk is full"))


def _days_since_written(folder: Path) -> float:
    times = [path.stat().st_mtime for path in [folder, *folder.rglob("*")]]
    return (time.time() - max(times)) / 86_400


def _problems(folder: Path, files: Mapping[str, FileEntry]) -> Iterator[str]:
    """What is not as it was published, a sentence for each such file, by name."""

    names = sorted(files)
    with ThreadPoolExecutor(4) as pool:  # hashing and reading both release the interpreter
        found = pool.map(lambda name: _problem(folder / name, files[name]), names)
        yield from (f"{name} {what}" for name, what in zip(names, found, strict=True) if what)


def _problem(path: Path, entry: FileEntry, trusted: int = 0) -> str:
    """How a file differs from its entry, if it does; one not written to since then (in nanoseconds) is believed."""
    if not path.is_file():
        return "is missing"
    status = path.stat()
    if status.st_size != entry.bytes:
        return f"has {status.st_size:,} bytes instead of {entry.bytes:,}"
    changed = status.st_mtime_ns > trusted and file_sha256(path) != entry.sha256
    return "was changed: its SHA-256 is not the one in the manifest" if changed else ""


def _starts(dataset: Dataset, digits: str) -> bool:
    return len(digits) >= 4 and dataset.ref.fingerprint.startswith(digits)
