"""The step store: every dataset and model that was published, each an immutable folder with a manifest.

    data/<kind>/<name>-<fingerprint, 12 digits>/manifest.json and the files it lists

Publishing is one rename, so a reader sees all of a dataset or none of it. Each step builds under its own lock: a second
process waits and finds the result. The lock is the operating system's, so it ends with its owner, and a staging folder
whose lock is free has no owner and is swept.

With a bucket, datasets are stored there and the folder is a cache: a dataset that is published here is uploaded, and
one from the bucket is fetched when it is first used.
"""

import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from pipelines.errors import InputError, did_you_mean
from pipelines.store.bucket import Bucket
from pipelines.store.dataset import Dataset
from pipelines.store.disks import disk_is_full, full_disk
from pipelines.store.files import lock, sync, sync_folders, write_synced
from pipelines.store.intact import Damaged
from pipelines.store.manifest import MANIFEST, Manifest, Ref, damaged_files, describe_files, files_digest
from pipelines.store.modes import make_folder
from pipelines.store.step import Step, Stopped, code_digest

_warned: set[str] = set()
"""What this process has warned of."""


class Store:
    """Published datasets under one folder, or in a bucket, with the folder as its cache."""

    def __init__(
        self, root: Path | str, bucket: Bucket | None = None, warn: Callable[[str], None] = warnings.warn
    ) -> None:
        """Name the place of the data. `warn` is called with each sentence about what is left out."""
        self.root = Path(root)
        self.bucket = bucket
        self.warn = warn

    @property
    def address(self) -> str:
        """The place of the datasets, for people to read."""
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
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Dataset:
        """Return the step's result, running it only if it is not published yet.

        Args:
            step: what to build.
            run: (output folder, scratch folder) -> statistics. The output folder is empty; the scratch folder is
                as the last attempt at the same step left it.
            built_by: written into the manifest unchanged (run ids, for example).
            rebuild: run the step even if its result is published, and replace that result.
            on_wait: called once if another process is building the same step; its result is then used.
            should_stop: called while it waits for that process; whether to give up.

        Raises:
            InputError: the disk filled up.
            Stopped: it gave up waiting.
        """
        before = self.find(step)
        if before and not rebuild:
            return before
        with self._naming_a_full_disk(), self._acquire(step, on_wait, should_stop):
            published = self.find(step)
            if published and (published != before or not rebuild):  # another process has just built it
                return published
            started = time.perf_counter()
            staging = self._folder(".staging", step.fingerprint, empty=True)
            scratch = self._folder(".scratch", step.fingerprint)
            try:
                statistics = run(staging, scratch)
                seconds = time.perf_counter() - started
                built = {**self._times(step), "seconds": round(seconds, 3), **(built_by or {})}
                dataset = self._publish(step, staging, statistics, built, replace=published)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)
            return dataset

    def _times(self, step: Step) -> dict[str, str]:
        """Return the time of a result: `at`, which orders datasets, and `clock` if this is later than the clock says.

        If the newest dataset of the kind was made by a clock that was ahead, the result follows it all the same.
        """
        try:
            before = [dataset.manifest.built["at"] for dataset in self.list(step.type.kind)]
        except InputError:
            if not self.bucket:
                raise
            before = []  # an unreachable bucket must not cost the result that was just built
        now = datetime.now(UTC)
        follows = datetime.fromisoformat(max(before)) + timedelta(milliseconds=1) if before else now
        at, clock = (each.isoformat(timespec="milliseconds") for each in (max(now, follows), now))
        return {"at": at} | ({"clock": clock} if at > clock else {})

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
            inputs={role: dataset.ref for role, dataset in step.inputs.items()},
            sources=step.sources,
            files=files,
            statistics=statistics,
            code=code_digest(step.type.packages),
            built={**built, "source": code_digest(step.type.packages, as_written=True)},
        )
        write_synced(staging / MANIFEST, manifest.to_json())
        sync_folders(staging)
        target = self.root / step.key
        make_folder(target.parent)
        if self.bucket and not (target / MANIFEST).exists():
            shutil.rmtree(target, ignore_errors=True)  # an unfinished fetch
        old = self._trash(replace, "replaced") if replace and target.exists() else None
        try:
            os.rename(staging, target)
        except OSError:
            if found := self.find(step):  # where locks do not work (some network disks), another process was first
                return found
            if target.exists():
                raise InputError(f"{target} is in the way: it has no {MANIFEST}; delete it and run again.") from None
            raise
        sync(target.parent)
        if old:
            shutil.rmtree(old)
        dataset = Dataset(target, manifest, self.bucket)
        dataset.compared.remember(files)
        return self._share(dataset, replace=replace is not None)

    def remove(self, dataset: Dataset) -> None:
        """Remove a published dataset: it disappears in one step, then its bytes are freed."""
        if self.bucket:
            self.bucket.withdraw(dataset.ref.key)
        dataset.compared.forget()
        if dataset.folder.exists():
            shutil.rmtree(self._trash(dataset, "removed"))

    def _trash(self, dataset: Dataset, why: str) -> Path:
        """Move a published dataset into a folder that the next sweep deletes or restores."""
        trash = self._folder(".staging", f"{why}-{dataset.ref.fingerprint}", empty=True)
        os.rename(dataset.folder, trash / "dataset")
        return trash

    def sweep(self, checkpoint_days: float = math.inf, dry_run: bool = False) -> list[str]:
        """Delete the leftovers of dead processes: staging folders, and checkpoints of steps that are published.

        Args:
            checkpoint_days: also delete the checkpoints of unpublished steps that are older than this.
            dry_run: delete nothing.

        Returns:
            The names of the deleted folders, or of those that would be deleted.
        """
        swept = []
        published = {path.name.rpartition("-")[2] for path in self.root.glob("[!.]*/*-*")}
        for leftover in [*self.root.glob(".staging/*"), *self.root.glob(".scratch/*")]:
            why, _, fingerprint = leftover.name.rpartition("-")
            unfinished = leftover.parent.name == ".scratch" and fingerprint[:12] not in published
            try:
                written = max(path.stat().st_mtime for path in [leftover, *leftover.rglob("*")])
                if unfinished and time.time() - written <= checkpoint_days * 86_400:
                    continue  # checkpoints of a step that may run again
                with self.lock(fingerprint).acquire(timeout=0):
                    if why == "replaced" and not dry_run:
                        self._restore(leftover / "dataset")
                    if not dry_run:
                        shutil.rmtree(leftover)
            except (Timeout, FileNotFoundError):
                continue  # its owner is alive, or another process has swept it
            swept.append(leftover.name)
        for memory in () if dry_run else self.root.glob(".intact/*/*"):
            if not (self.root / memory.parent.name / memory.stem).exists():  # of a dataset that is gone
                memory.unlink(missing_ok=True)
        return swept

    def _restore(self, old: Path) -> None:
        """Put a dataset back whose replacement was killed before it was in place, unless its manifest is damaged."""
        with suppress(Damaged):
            dataset = Dataset.load(old, self.bucket, moved=True)
            if dataset and not (target := self.root / dataset.ref.key).exists():
                os.rename(old, target)

    # Finding

    def find(self, step: Step) -> Dataset | None:
        """Return the step's published result, or None."""
        if found := self._published(step.key):
            return found
        # A dataset that was published here without a bucket, or with an unreachable one, is uploaded now.
        here = Dataset.load(self.root / step.key, self.bucket) if self.bucket else None
        if here and self._verify_folder(here):
            shutil.rmtree(self._trash(here, "removed"))
            return None
        return here and self._share(here)

    def open(self, reference: str | Ref, kind: str | None = None) -> Dataset:
        """Return the dataset that a reference names; the newest, if it matches several versions.

        Where several kinds have a name, it means the model. A report is meant only where nothing else has the name.

        Args:
            reference: `name`, `kind/name`, `kind`, a fingerprint or its first digits; or `name`, `kind/name` or
                `kind` followed by `@` and a fingerprint or its first digits.
            kind: only search datasets of this kind.

        Raises:
            InputError: nothing matches, several kinds without a model match, or the first digits of a fingerprint
                match more than one.
        """
        if isinstance(reference, Ref):
            found = self._published(reference.key)
            if not found:
                raise InputError(f"{reference} is not in {self.address}; run the step that makes it again.")
            return found
        what, _, digits = reference.partition("@")
        head, slash, name = what.rpartition("/")
        every = self.list(kind)
        candidates = [
            dataset
            for dataset in every
            if dataset.ref.fingerprint.startswith(digits) and (not slash or dataset.ref.kind == head)
        ]
        exact = [each for each in candidates if each.ref.name == name] or [
            each for each in candidates if not slash and each.ref.kind == name
        ]
        by_digits = len(name) >= 4 and not digits
        candidates = exact or [each for each in candidates if by_digits and each.ref.fingerprint.startswith(name)]
        if not candidates:
            for place, error in self.read_manifests(kind)[1].items():
                if _is_named(place, what, digits):
                    raise error
            among = f"{kind} datasets" if kind else "published datasets"
            known = {f"{each.ref.kind}/{each.ref.name}" if slash else each.ref.name for each in every} - {what}
            hint = did_you_mean(what, known, "see `tokenmill datasets ls`.")
            raise InputError(f"Nothing called {reference!r} among the {among} in {self.address}; {hint}")
        if (digits or not exact) and len({dataset.ref.fingerprint for dataset in candidates}) > 1:
            raise InputError(f"{reference!r} fits {len(candidates)} datasets; give more digits of the fingerprint.")
        return _meant(reference, candidates)

    def verify(self, dataset: Dataset) -> list[str]:
        """Return what is wrong with a dataset's files, a sentence each; empty if every byte is as it was published.

        With a bucket, every file there is read, and the copy on this machine if there is one. A damaged copy is
        fetched again on its next use.
        """
        manifest = dataset.manifest
        if bucket := self.bucket:
            problems = damaged_files(manifest.files, lambda _, entry: bucket.problem(entry.sha256, entry.bytes))
            if (dataset.folder / MANIFEST).exists():
                problems += [f"{problem}, in the copy on this machine" for problem in self._verify_folder(dataset)]
        else:
            problems = self._verify_folder(dataset)
        if (place := "/".join(dataset.folder.parts[-2:])) != dataset.ref.key:
            problems.append(f"it lies in {place} instead of {dataset.ref.key}")
        return problems

    def _verify_folder(self, dataset: Dataset) -> list[str]:
        present = {path.relative_to(dataset.folder).as_posix() for path in dataset.folder.rglob("*") if path.is_file()}
        foreign = sorted(present - {*dataset.manifest.files, MANIFEST})
        damaged = dataset.compared.problems(dataset.manifest.files, afresh=True)
        return [f"{name} {what}" for name, what in (damaged | dict.fromkeys(foreign, "does not belong to it")).items()]

    def read_manifests(self, kind: str | None = None) -> tuple[list[Dataset], dict[str, Damaged]]:
        """Return all published datasets, or those of a kind, oldest first, and the damaged manifests by their place."""
        found: list[Dataset] = []
        damaged: dict[str, Damaged] = {}
        for place, read in self._manifests(kind).items():
            try:
                if dataset := read():
                    found.append(dataset)
            except Damaged as error:
                damaged[place] = error
        found.sort(key=lambda dataset: (dataset.manifest.built["at"], str(dataset.folder)))
        return found, damaged

    def list(self, kind: str | None = None, *, complete: bool = False) -> list[Dataset]:
        """Return all published datasets, or those of a kind, oldest first.

        Args:
            kind: only list datasets of this kind.
            complete: raise an error for a damaged manifest. Otherwise it is left out, with one warning.

        Raises:
            Damaged: a manifest is damaged.
        """
        found, damaged = self.read_manifests(kind)
        for error in damaged.values():
            if complete:
                raise error
            self._warn_once(str(error))
        return found

    def _warn_once(self, sentence: str) -> None:
        if sentence not in _warned:
            _warned.add(sentence)
            self.warn(sentence)

    def _manifests(self, kind: str | None) -> dict[str, Callable[[], Dataset | None]]:
        """Return a function that reads the manifest of each place in the store."""
        if self.bucket:
            manifests = self.bucket.manifests(kind, self._folder(".manifests", ""), self._warn_once)
            return {key: partial(self._shared, key, content) for key, content in manifests.items()}
        paths = [path for path in self.root.glob("[!.]*/*-*") if kind in (None, path.parent.name)]
        return {f"{path.parent.name}/{path.name}": partial(Dataset.load, path) for path in paths}

    def _shared(self, key: str, content: bytes) -> Dataset | None:
        """Return the dataset in the bucket that a manifest describes; read it again if its copy here is damaged."""
        try:
            return Dataset.parse(self.root / key, content, self.bucket)
        except Damaged:
            (self.root / ".manifests" / f"{key}.json").unlink(missing_ok=True)
            return self._published(key)

    def changed_code(self, step: Step, dataset: Dataset) -> bool:
        """Return whether a dataset was built by other code than the step's, at the same version number."""
        same_files = dataset.manifest.built.get("source") == code_digest(step.type.packages, as_written=True)
        return not same_files and dataset.manifest.code != code_digest(step.type.packages)

    def lock(self, name: str) -> FileLock:
        """Return a lock between processes. It is released when its holder ends or is killed."""
        return lock(self.root, name)

    def is_locked(self, name: str) -> bool:
        """Return whether a process holds the lock of that name."""
        try:
            with self.lock(name).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def locks(self, prefix: str) -> tuple[Path, ...]:
        """Return the files of the locks whose names have a prefix, held or left behind."""
        return tuple((self.root / ".locks").glob(f"{prefix}*.lock"))

    # The bucket

    def sweep_bucket(self, hours: float = 24) -> int:
        """Delete files in the bucket that belong to no dataset and are older than `hours`; return their number."""
        if not self.bucket:
            return 0
        there = self.bucket.files()  # before the manifests, so that a dataset published meanwhile keeps its files
        wanted = {entry.sha256 for dataset in self.list(complete=True) for entry in dataset.manifest.files.values()}
        return self.bucket.delete(there - wanted, hours)

    def _share(self, dataset: Dataset, replace: bool = False) -> Dataset:
        """Upload a dataset that was published in the folder, unless another machine was first."""
        if not self.bucket:
            return dataset
        if not replace and (theirs := self._published(dataset.ref.key)):
            return theirs
        self.bucket.put({dataset.folder / name: entry.sha256 for name, entry in dataset.manifest.files.items()})
        self.bucket.publish(dataset.ref.key, (dataset.folder / MANIFEST).read_bytes())
        return dataset

    def _published(self, key: str) -> Dataset | None:
        if not self.bucket:
            return Dataset.load(self.root / key)
        content = self.bucket.manifest(key)
        return Dataset.parse(self.root / key, content, self.bucket) if content else None

    # Inside

    @contextmanager
    def _naming_a_full_disk(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not disk_is_full(error):
                raise
            raise (full_disk([self.root], error) or error) from error

    def _folder(self, area: str, name: str, empty: bool = False) -> Path:
        folder = self.root / area / name
        if empty and folder.exists():
            shutil.rmtree(folder)
        return make_folder(folder)

    def _acquire(
        self, step: Step, on_wait: Callable[[], None] | None, should_stop: Callable[[], bool]
    ) -> AcquireReturnProxy:
        """Acquire the step's lock; `on_wait` is called if another process has it."""
        lock = self.lock(step.fingerprint)
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            if on_wait:
                on_wait()
        try:
            return lock.acquire(cancel_check=should_stop)
        except Timeout:
            raise Stopped(f"stopped while another process was building {step}") from None


def _meant(name: str, datasets: Sequence[Dataset]) -> Dataset:
    """Return the dataset that people mean by a name, of all that have it, oldest first."""
    newest = {dataset.ref.kind: dataset for dataset in datasets}
    kinds = [kind for kind in newest if kind != "report"]
    if "model" in newest or len(kinds) <= 1:
        return newest["model" if "model" in newest else kinds[0] if kinds else "report"]
    listed = ", ".join(f"{kind}/{newest[kind].ref.name}" for kind in kinds)
    raise InputError(f"{name!r} names {len(kinds)} datasets; give one of {listed}.")


def _is_named(place: str, what: str, digits: str) -> bool:
    """Return whether the place of a damaged manifest, `kind/name-fingerprint`, fits the parts of a reference."""
    kind, _, folder = place.partition("/")
    name, _, fingerprint = folder.rpartition("-")
    is_fingerprint = len(what) >= 4 and not digits and fingerprint.startswith(what[:12])
    return (is_fingerprint or what in (kind, name, f"{kind}/{name}")) and fingerprint.startswith(digits[:12])
