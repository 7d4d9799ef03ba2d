"""Comparison of published files with their SHA-256, which is repeated only for files that somebody touched.

A file's state is its size, its times and its inode. It changes whenever the file is written to, replaced or copied, so
a file in the state in which it was last compared is not read again:

    data/.intact/<kind>/<name>-<fingerprint, 12 digits>.json: {"<file>": ["<SHA-256>", size, mtime, ctime, inode], ...}

Only `tokenmill datasets verify` reads every byte, and so finds what a failing disk changed without a write.
"""

import json
import stat
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.errors import InputError
from pipelines.store.files import whole_file
from pipelines.store.manifest import FileEntry
from pipelines.store.modes import make_folder

SETTLED = 100_000_000
"""Nanoseconds after a change. A later change gives the file another time, however coarse the file system's clock is."""

State = list[Any]


class Damaged(InputError):
    """A published file is not as it was published."""


def damaged(path: Path | str, name: object, why: str) -> Damaged:
    """Return the error for a damaged file of the dataset of this name."""
    return Damaged(f"{path} is damaged; see tokenmill datasets verify {name} ({why}).")


class Compared:
    """The files of one dataset that were equal to their entries in the manifest, and their states at that time."""

    def __init__(self, folder: Path, remembered: bool = True) -> None:
        """Read the memory about the dataset in a folder.

        Args:
            folder: the dataset's folder.
            remembered: whether the folder has its place in a store, which remembers what was compared.
        """
        self._folder = folder
        place = folder.parent.parent / ".intact" / folder.parent.name / f"{folder.name}.json"
        self._memory = place if remembered else None
        self._states = self._read()

    def problems(self, files: Mapping[str, FileEntry], afresh: bool = False) -> dict[str, str]:
        """Return what is wrong with each damaged file, by name.

        Args:
            files: the files' entries in the manifest.
            afresh: read every byte. Otherwise files in a known state are not read.
        """
        if afresh:
            self.forget()
        before = time.time_ns()
        states = {name: _state(self._folder / name, entry) for name, entry in files.items()}
        unknown = [name for name in files if states[name] is None or states[name] != self._states.get(name)]
        if not unknown:
            return {}
        with ThreadPoolExecutor(4) as pool:  # hashing and reading both release the interpreter
            found = dict(zip(unknown, pool.map(lambda n: files[n].damage(self._folder / n), unknown), strict=True))
        self._remember({n: state for n in unknown if not found[n] and (state := states[n])}, before)
        return {name: what for name, what in found.items() if what}

    def remember(self, files: Mapping[str, FileEntry]) -> None:
        """Remember the states of files that this process has just published or fetched, and forget all others."""
        self._states = {}
        states = {name: _state(self._folder / name, entry) for name, entry in files.items()}
        self._remember({name: state for name, state in states.items() if state}, time.time_ns())

    def forget(self) -> None:
        """Forget the dataset, which is deleted or damaged."""
        self._states = {}
        if self._memory:
            self._memory.unlink(missing_ok=True)

    def _remember(self, states: Mapping[str, State], now: int) -> None:
        """Remember states, except young ones: a change within the same tick of the clock would not show."""
        self._states |= {name: state for name, state in states.items() if abs(now - state[3]) > SETTLED}
        with suppress(OSError):  # a home that is read-only or full
            if self._memory and self._states:
                make_folder(self._memory.parent)
                with whole_file(self._memory) as unfinished:
                    unfinished.write_text(json.dumps(self._states))

    def _read(self) -> dict[str, State]:
        """Return the remembered states; none if there is no memory, or if it is damaged."""
        try:
            found = json.loads(self._memory.read_bytes()) if self._memory else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def _state(path: Path, entry: FileEntry) -> State | None:
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return [entry.sha256, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
