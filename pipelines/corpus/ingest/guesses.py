"""What people are told about guesses: statistics, lines of the summary, and warnings of doubtful ones."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.corpus.ingest.read import Part
from pipelines.corpus.readers.encoding import known_name

PREFIX = "guessed_"
SIGNS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
KEYS = ("encoding", "format", "compression", "delimiter", "quotes")


def count_guesses(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the statistics of guesses: how many files each was made for, in names that SQL can read."""
    return {_statistic(name): counts[name] for name in sorted(counts) if name.startswith(PREFIX)}


def _statistic(name: str) -> str:
    return re.sub(r"\W", "_", "".join(SIGNS.get(sign, sign) for sign in name))


def describe_guesses(statistics: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each guess of the statistics."""
    for name, n_files in statistics.items():
        if name.startswith(PREFIX) and isinstance(n_files, int):
            key, _, value = name.removeprefix(PREFIX).partition("_")
            yield f"{n_files:,} {'file' if n_files == 1 else 'files'} {_read_as(key, value)}, guessed"


def _read_as(key: str, value: str) -> str:
    match key:
        case "encoding":
            return f"read as {known_name(value)}"
        case "compression":
            return "not compressed, whatever the name says" if value == "none" else f"unpacked as .{value}"
        case "quotes":
            return {
                "letters": "with quotes as letters",
                "fields": "with quotes around fields",
                "escaped": "with escaped quotes",
            }.get(value, value)
        case "delimiter":
            return f"divided at each {value}"
    return f"read as {value}"


def warn_of_doubtful(parts: Sequence[Part], counts: Counter[str], warn: Callable[[str], None]) -> None:
    """Warn of each doubtful guess, with a file and the key that overrides it."""
    first: dict[str, str] = {}
    for part in parts:
        first = part.doubtful | first
    for name, file in sorted(first.items()):
        key, _, value = name.partition("_")
        others = counts[f"doubtful_{name}"] - 1
        files = f"{file} and {others:,} other{'s' * (others > 1)}" if others else file
        warn(f"{files}: {_read_as(key, value)}, a doubtful guess; the key {key!r} of the source overrides it.")
