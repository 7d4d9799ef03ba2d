"""Logs of the servers."""

import os
from pathlib import Path
from typing import IO


def open_log(path: Path) -> IO[bytes]:
    """Open a log to append to it. A log of over 5 MB is first renamed to `.old.log`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > 5_000_000:
        os.replace(path, path.with_suffix(".old.log"))
    return path.open("ab")


def last_line_of(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    return last_line(log.read_text(encoding="utf-8", errors="replace"))


def last_line(text: str) -> str:
    """Return the last line of a text that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
