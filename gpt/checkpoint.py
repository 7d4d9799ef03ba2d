"""Checkpoints on disk: written atomically, verified by digest, and free of pickle.

A checkpoint is a folder such as `step-00001000` with `model.safetensors`, `optimizer.safetensors` and `state.json`.
The last one has the numbers of the training loop, and the SHA-256 of these numbers and of the other two files. The
folder is built under a temporary name and then renamed.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

FILES = {"model.safetensors", "optimizer.safetensors"}


State = dict[str, Any]
"""Numbers of the training loop, as JSON."""


class Checkpoints:
    """The checkpoints of one training run, in one folder.

    The newest ones are kept, and beside them the best weights, without the optimizer's tensors.
    """

    def __init__(self, folder: str | Path, keep_last: int = 2, warn: Callable[[str], None] = warnings.warn):
        """Open or create the folder.

        Args:
            folder: where the checkpoints are stored.
            keep_last: number of the newest checkpoints to keep.
            warn: receives a sentence about each damaged checkpoint.

        Raises:
            ValueError: keep_last is below 1.
        """
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}: at least the newest checkpoint has to stay")
        self.folder, self.keep_last, self._warn = Path(folder), keep_last, warn
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: State) -> Path:
        """Write the checkpoint of the run after `step` steps, then delete those beyond `keep_last`."""
        path = self._write("step", step, {"model": model, "optimizer": optimizer}, state)
        for old in self._list("step")[self.keep_last :]:
            shutil.rmtree(old)
        return path

    def save_best(self, step: int, model: Mapping[str, Tensor], state: State) -> Path:
        """Write the best weights so far, then delete the previous best."""
        path = self._write("best", step, {"model": model}, state)
        for old in self._list("best"):
            if old != path:
                shutil.rmtree(old)
        return path

    def latest(self) -> Path | None:
        """Return the newest intact checkpoint, or None. A warning names the damaged ones that are skipped.

        A run resumes only with its best weights so far, or with later ones that it will find again.
        """
        return self._newest_intact("step")

    def best(self) -> Path | None:
        """Return the checkpoint with the lowest validation loss, or None."""
        return self._newest_intact("best")

    @staticmethod
    def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], State]:
        """Load the model's tensors, the optimizer's tensors and the state of a checkpoint.

        The best weights have no optimizer's tensors.
        """
        files = [path / "model.safetensors", path / "optimizer.safetensors"]
        model, optimizer = (load_file(f) if f.exists() else {} for f in files)
        return model, optimizer, json.loads((path / "state.json").read_text())["state"]

    def _write(self, kind: str, step: int, parts: dict[str, Mapping[str, Tensor]], state: State) -> Path:
        path = self.folder / f"{kind}-{step:08d}"
        if path.exists() and _is_intact(path):  # the run was resumed from an earlier step
            return path
        for leftover in self.folder.glob(".writing-*"):  # from a run that was killed
            shutil.rmtree(leftover)
        building = self.folder / f".writing-{path.name}"
        building.mkdir()
        try:
            digests = {}
            for name, tensors in parts.items():
                file = building / f"{name}.safetensors"
                save_file({key: t.detach().contiguous() for key, t in tensors.items()}, file)
                digests[file.name] = _digest(file)
            content = {"state": state, "sha256": digests, "state_sha256": _state_digest(state)}
            (building / "state.json").write_text(json.dumps(content, indent=1))
            for file in (*building.iterdir(), building):
                _flush(file)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)  # frees the space if the disk is full
            raise
        if path.exists():  # damaged, or it would have been returned above
            shutil.rmtree(path)
        building.rename(path)
        _flush(self.folder)
        return path

    def _list(self, kind: str) -> list[Path]:
        """List the folders of a kind, newest first."""
        return sorted((p for p in self.folder.iterdir() if re.fullmatch(rf"{kind}-\d{{8,}}", p.name)), reverse=True)

    def _newest_intact(self, kind: str) -> Path | None:
        damaged: list[Path] = []
        found = None
        for path in self._list(kind):
            if _is_intact(path) and (kind == "best" or self._has_best(path)):
                found = path
                break
            damaged.append(path)
        if damaged:
            instead = f"{found.name} is used instead" if found else "the work that it held is done again"
            self._warn(f"the checkpoint {' and '.join(map(str, damaged))} is damaged; {instead}")
        return found

    def _has_best(self, path: Path) -> bool:
        step = json.loads((path / "state.json").read_bytes())["state"].get("best_step")
        return step is None or any(best.name >= f"best-{step:08d}" and _is_intact(best) for best in self._list("best"))


def _is_intact(path: Path) -> bool:
    try:
        content = json.loads((path / "state.json").read_bytes())
        digests, state = content["sha256"], _state_digest(content["state"])
        return (
            "model.safetensors" in digests
            and digests.keys() <= FILES
            and isinstance(content["state"], dict)
            and content.get("state_sha256", state) == state  # earlier versions wrote none
            and all(_digest(path / name) == digest for name, digest in digests.items())
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def _state_digest(state: State) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
