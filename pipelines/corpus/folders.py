"""The files below a folder: which of them are a source, and why the others are not.

What tokenmill and MLflow keep is never a source, wherever it is found. Else a config whose source is its own home would
read what it wrote the last time. Installed packages, caches and built code are not somebody's text either.
"""

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.store.kinds import KINDS
from pipelines.store.manifest import MANIFEST

OWN = "kept by tokenmill"
MACHINE_MADE = {"node_modules": "installed packages", "bower_components": "installed packages"} | {
    "site-packages": "installed packages",
    "__pycache__": "compiled code",
}
"""Names of folders that hold no text that a person wrote, with the reason."""
BUILT = frozenset(("build", "dist", "out", "target"))
"""Names of folders of built code, if a file of `PROJECTS` is beside them."""
PROJECTS = frozenset(("Cargo.toml", "CMakeLists.txt", "Makefile", "build.gradle", "build.gradle.kts", "build.sbt")) | {
    *("go.mod", "package.json", "pom.xml", "pyproject.toml", "setup.cfg", "setup.py")
}
MINIFIED = re.compile(r"(?i)[.-]min\.(js|mjs|cjs|css)$")
LOCKS = frozenset(("package-lock.json", "npm-shrinkwrap.json", "composer.lock", "pnpm-lock.yaml"))
PUBLISHED = re.compile(rf"(^|/)(({'|'.join(KINDS)})/[a-z0-9][\w.-]*-[0-9a-f]{{12}}(/|\.json$)|files/[0-9a-f]{{64}}$)")
MAX_MANIFEST, MAX_CONFIG = 64 << 20, 1 << 20  # bytes of a file that may be one


@dataclass(frozen=True)
class Skipped:
    """A file or folder that a source lists but that is not read, and the reason.

    is_own: whether tokenmill made it. So it may be another one at the next run, and no corpus lists it.
    """

    name: str
    reason: str
    is_own: bool = False


def walk(root: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[Path, str] | Skipped]:
    """Yield each wanted file below a folder with its name relative to the folder, in no order.

    Args:
        root: the folder.
        wanted: whether a file of a name is wanted.
    """
    inside = _hub_repository(root) or root.resolve()
    for folder, folders, names in os.walk(root, onerror=_raise):  # follows no links to folders, so no loops
        here = Path(folder)
        within = here.relative_to(root)
        kept = []
        for name in sorted(name for name in folders if not name.startswith(".")):
            if left_out := _left_out_folder(here / name, (within / name).as_posix(), folders, names):
                yield left_out
            else:
                kept.append(name)
        folders[:] = kept
        for base in sorted(names):
            name = (within / base).as_posix()
            if not base.startswith(".") and wanted(name):
                yield _left_out_file(here / base, name, inside) or (here / base, name)


def _raise(error: OSError) -> None:
    raise error


def _left_out_folder(path: Path, name: str, folders: list[str], names: list[str]) -> Skipped | None:
    """Return why a folder is not read, by what it holds and by what is beside it."""
    if is_own(path):
        return Skipped(name, OWN, is_own=True)
    if path.name in ("blobs", "refs") and {"blobs", "snapshots"} <= {*folders}:
        return Skipped(name, "the Hub's cache, whose files have their names in snapshots")
    if (path / "pyvenv.cfg").exists():
        return Skipped(name, "installed packages")
    if (path / "CACHEDIR.TAG").exists():
        return Skipped(name, "a cache")
    if path.name in BUILT and PROJECTS & {*names}:
        return Skipped(name, "built code")
    reason = MACHINE_MADE.get(path.name)
    return Skipped(name, reason) if reason else None


def _left_out_file(path: Path, name: str, inside: Path) -> Skipped | None:
    if (written := name.encode("utf-8", "backslashreplace").decode()) != name:
        return Skipped(written, "its name is not UTF-8")
    target = Path(os.path.realpath(path))  # `resolve` fails on a loop
    if not target.is_relative_to(inside):
        return Skipped(name, "a link that leaves the folder")
    if not path.is_file():
        return Skipped(name, "not a regular file")
    if path.is_symlink() and own_folder(target):
        return Skipped(name, OWN, is_own=True)
    if MINIFIED.search(name):
        return Skipped(name, "minified code")
    if path.name in LOCKS:
        return Skipped(name, "a list of installed packages")
    if path.suffix == ".toml" and _is_config(path):
        return Skipped(name, "a config of tokenmill", is_own=True)
    return None


def is_own(folder: Path) -> bool:
    """Return whether a folder is a published dataset, a folder of a bucket of them, or one of MLflow or our servers."""
    if folder.name in ("files", "manifests"):
        return next(folder.parent.glob("manifests/*/*-????????????.json"), None) is not None
    return folder.name in ("mlruns", ".tokenmill") or _is_published(folder)


def own_folder(path: Path) -> Path | None:
    """Return the folder of ours in which a path is, or None."""
    return next((folder for folder in (path, *path.parents) if is_own(folder)), None)


def is_own_address(address: str) -> bool:
    """Return whether an address is that of a file that a bucket or a copy of a home keeps for a published dataset."""
    return PUBLISHED.search(address) is not None


def _is_published(folder: Path) -> bool:
    manifest = folder / MANIFEST
    with suppress(OSError, ValueError, RecursionError):
        if manifest.is_file() and manifest.stat().st_size <= MAX_MANIFEST:
            content = json.loads(manifest.read_bytes())
            return isinstance(content, dict) and {"kind", "step", "fingerprint", "digest"} <= content.keys()
    return False


def _is_config(path: Path) -> bool:
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= MAX_CONFIG:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
            ingest = values.get("ingest") or values.get("corpora")
            return "name" in values and isinstance(ingest, dict)
    return False


def _hub_repository(root: Path) -> Path | None:
    """Return the folder of a repository in the Hub's cache if a folder is in it: its files are links to blobs."""
    for folder in (resolved := root.resolve(), *resolved.parents):
        if folder.name == "snapshots" and (folder.parent / "blobs").is_dir():
            return folder.parent
    return None
