"""Who may read what we make: its owner, and with `TOKENMILL_UMASK` also the owner's group.

The umask of a process decides for every file that the process and its children make, whichever library opens it. The
folders of a store are closed by their own modes too, so that they are private in programs with another umask.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import InputError

VARIABLE = "TOKENMILL_UMASK"

_usual: int | None = None  # the umask of the person, for the files that they name


def umask() -> int:
    """Return the umask of what we make, by default 077.

    Raises:
        InputError: the variable's value is none, or opens files to every user of the machine.
    """
    text = os.environ.get(VARIABLE) or "077"
    if text not in ("077", "027", "007"):
        raise InputError(
            f"{VARIABLE}={text!r} cannot be used; it is 077 for the owner alone, 027 to let the group read, or 007 to "
            "let the group write too."
        )
    return int(text, 8)


def keep_private() -> None:
    """Let this process and its children make files for their owner alone."""
    global _usual
    before = os.umask(umask())
    _usual = before if _usual is None else _usual


def give_usual_mode(path: Path) -> None:
    """Give a file or folder that a person named the mode that it has in other programs."""
    if _usual is not None:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_usual)


@contextmanager
def usual_modes(path: Path) -> Iterator[None]:
    """Give a file, and the folders above it, their usual modes, except those that are there already."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    yield
    for each in missing:
        give_usual_mode(each)


def make_folder(path: Path) -> Path:
    """Create a folder, and those above it that are missing, for their owner alone; return it."""
    if not path.is_dir():
        for folder in [*reversed(path.parents), path]:
            if not folder.exists():
                folder.mkdir(0o777 & ~umask(), exist_ok=True)
    return path


def close(folder: Path) -> None:
    """Close a folder and all in it to other users, after a library has copied the modes of other files."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode & 0o777 & ~umask())


def open_to_others(path: Path) -> Iterator[Path]:
    """Yield what other users may enter or read, of a folder and what is below. All in a closed folder is closed.

    The folders of a checkout are open, but not what we make in them.
    """
    if path.is_symlink() or not path.exists() or not path.stat().st_mode & umask() & 0o077:
        return
    is_shipped = path.name == "README.md" or (path / "README.md").exists()
    if not is_shipped:
        yield path
    for each in sorted(path.iterdir()) if path.is_dir() else ():
        yield from open_to_others(each)
