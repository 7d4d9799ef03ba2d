"""The secret of a home, which only its owner can read. Whoever has it may use the home's servers."""

import hmac
import os
import re
import secrets
import stat
import time
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from pipelines.errors import InputError

USER = "tokenmill"
"""The user name that MLflow's client sends with the secret. The servers take any other too."""


class Secret(NamedTuple):
    """The secret of a home, and what is derived from it for browsers."""

    value: str

    @property
    def id(self) -> str:
        """Return a name that tells secrets apart and does not betray them."""
        return self._digest("id")[:12]

    def token(self, purpose: str, seconds: int) -> str:
        """Return a token that serves one purpose for some seconds. Only who has the secret can make one."""
        until = str(int(time.time()) + seconds)
        return f"{until}-{self._digest(f'{purpose} {until}')}"

    def accepts(self, purpose: str, token: str) -> bool:
        """Return whether a token was made for a purpose by `token` and is still valid."""
        until, _, digest = token.partition("-")
        expected = self._digest(f"{purpose} {until}")
        if not hmac.compare_digest(expected.encode(), digest.encode()):
            return False
        return int(until) > time.time()  # a number, since `token` has written it

    def _digest(self, text: str) -> str:
        return hmac.digest(self.value.encode(), text.encode(), "sha256").hex()


def home_secret(folder: Path) -> Secret:
    """Return the secret in a folder; make one if there is none. Processes that ask at once get the same one.

    A secret ends with the inode of its file. A copied home gets a new one, so that nobody knows the secret of a home
    that they gave to somebody else.

    Raises:
        InputError: another user wrote the file or may read it, or it holds no secret.
    """
    path = folder / "secret"
    if not (found := _read(path)):
        with FileLock(folder / ".secret.lock"):
            if not (found := _read(path)):
                found = _write(path)
    return Secret(found)


def _write(path: Path) -> str:
    unfinished = path.with_name(".secret.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        secret = f"{secrets.token_hex(32)}-{os.fstat(file.fileno()).st_ino:x}"
        file.write(f"{secret}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    return secret


def _read(path: Path) -> str:
    """Return the secret in a file; empty if there is no file, or if it is a copy of the one that was made."""
    if not os.path.lexists(path):
        return ""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # no link, no waiting for a pipe
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            content = file.read(1000) if stat.S_ISREG(state.st_mode) else b""
    except OSError as error:
        raise InputError(f"The secret {path} cannot be read ({error.strerror}); delete it to get a new one.") from None
    if state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise InputError(
            f"The secret {path} belongs to another user or may be read by others; end the servers with "
            f"`tokenmill down`, delete the file, and `tokenmill up` makes a new one."
        )
    found = re.fullmatch(r"([0-9a-f]{64}-([0-9a-f]+))\n?", content.decode("latin-1"))
    if not found:
        raise InputError(f"The file {path} holds no secret; delete it to get a new one.")
    return found[1] if found[2] == f"{state.st_ino:x}" else ""
