"""Checkpoints on disk: whole or not there, newest and best kept, damage noticed, no pickle.

A checkpoint is a folder `step-00001000` with `model.safetensors`, `optimizer.safetensors` and `state.json`, which
holds the loop's own numbers and the digest of the other two. It is built beside its place and renamed into it.
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

State = dict[str, Any]


class Checkpoints:
    """The checkpoints of one training run, in one folder.

    keep_last: how many of the newest to keep. The best is kept beside them, as weights alone.
    """

    def __init__(self, folder: str | Path, keep_last: int = 2):
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}: at least the newest checkpoint has to stay")
        self.folder, self.keep_last = Path(folder), keep_last
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: State) -> Path:
        """Write the checkpoint of the run after `step` steps, then drop those that are no longer wanted."""
        path = self._write("step", step, {"model": model, "optimizer": optimizer}, state)
        for old in self._found("step")[self.keep_last :]:
            shutil.rmtree(old)
        return path

    def save_best(self, step: int, model: Mapping[str, Tensor], state: State) -> Path:
        """Write the best weights so far, then drop the best before them."""
        path = self._write("best", step, {"model": model}, state)
        for old in self._found("best"):
            if old != path:
                shutil.rmtree(old)
        return path

    def latest(self) -> Path | None:
        """The newest checkpoint that is whole. A damaged one is passed over with a warning."""
        return self._whole("step")

    def best(self) -> Path | None:
        """The weights with the lowest validation loss."""
        return self._whole("best")

    @staticmethod
    def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], State]:
        """Model tensors, optimizer tensors (none for the best) and state of a checkpoint."""
        files = [path / "model.safetensors", path / "optimizer.safetensors"]
        model, optimizer = (load_file(f) if f.exists() else {} for f in files)
        return model, optimizer, json.loads((path / "state.json").read_text())["state"]

    def _write(self, kind: str, step: int, parts: dict[str, Mapping[str, Tensor]], state: State) -> Path:
        path = self.folder / f"{kind}-{step:08d}"
        if path.exists() and _is_whole(path):  # a resumed run has come by here again
            return path
        for leftover in self.folder.glob(".writing-*"):  # of a run that was killed
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
            shutil.rmtree(building, ignore_errors=True)  # on a disk that is full it would be in the way
            raise
        if path.exists():  # damaged: it was not whole above
            shutil.rmtree(path)
        building.rename(path)
        _flush(self.folder)
        return path

    def _found(self, kind: str) -> list[Path]:
        """Folders of a kind, newest first."""
        return sorted((p for p in self.folder.iterdir() if re.fullmatch(rf"{kind}-\d{{8,}}", p.name)), reverse=True)

    def _whole(self, kind: str) -> Path | None:
        for path in self._found(kind):
            if _is_whole(path):
                return path
            warnings.warn(f"checkpoint {path} is damaged and passed over: the one before it is used", stacklevel=3)
        return None


def _is_whole(path: Path) -> bool:
    try:
        digests = json.loads((path / "state.json").read_text())["sha256"]
        return all(_digest(path / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Have the disk hold a file, or a folder's list of names, before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
