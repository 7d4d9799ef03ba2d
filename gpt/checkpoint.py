"""Checkpoints on disk: written atomically, verified by digest, and free of pickle.

A checkpoint is a folder such as `step-00001000` with `model.safetensors`, `optimizer.safetensors` and `state.json`.
The last one has the numbers of the training loop and the SHA-256 of the other two files. The folder is built under a
temporary name and then renamed.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
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

    def __init__(self, folder: str | Path, keep_last: int = 2):
        """Open or create the folder.

        Args:
            folder: where the checkpoints are stored.
            keep_last: number of the newest checkpoints to keep.

        Raises:
            ValueError: keep_last is below 1.
        """
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}: at least the newest checkpoint has to stay")
        self.folder, self.keep_last = Path(folder), keep_last
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
        """Return the newest intact checkpoint, or None. A warning names each damaged one that is skipped."""
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
            (building / "state.json").write_text(json.dumps({"state": state, "sha256": digests}, indent=1))
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
        for path in self._list(kind):
            if _is_intact(path):
                return path
            warnings.warn(f"checkpoint {path} is damaged and passed over: the one before it is used", stacklevel=3)
        return None


def _is_intact(path: Path) -> bool:
    try:
        digests = json.loads((path / "state.json").read_text())["sha256"]
        return digests.keys() <= FILES and all(_digest(path / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


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
