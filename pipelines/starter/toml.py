"""TOML with comments: values as TOML writes them, and tables whose keys say why they have their value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipelines.visible import one_line, visible

BARE = re.compile(r"[A-Za-z0-9_-]+")


def value(of: Any) -> str:
    """Return a value as TOML. Control characters in a text are escaped, and what turns around the order of letters.

    Raises:
        ValueError: TOML has no such value: a text that is not Unicode, or a type.
    """
    match of:
        case bool():
            return "true" if of else "false"
        case int() | float():
            return repr(of)
        case str():
            of.encode()  # raises for halves of characters
            return "".join(_escaped(letter) for letter in json.dumps(of, ensure_ascii=False))
        case list() | tuple():
            return f"[{', '.join(map(value, of))}]"
        case dict():
            return f"{{ {', '.join(f'{_key(name)} = {value(each)}' for name, each in of.items())} }}"
    raise ValueError(f"TOML has no {type(of).__name__}")


def table(header: str, keys: Mapping[str, Any], comments: Mapping[str, str] = {}) -> str:
    """Return a table: its header, such as `[ingest]`, and a line for each key, with its comment."""
    lines = [header] if header else []
    for name, each in keys.items():
        line = f"{_key(name)} = {value(each)}"
        lines.append(f"{line} # {one_line(comments[name])}" if name in comments else line)
    return "\n".join(lines) + "\n"


def comment(text: str) -> str:
    """Return lines as a comment."""
    return "".join(f"# {one_line(line)}".rstrip() + "\n" for line in text.split("\n"))


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else value(name)


def _escaped(letter: str) -> str:
    if letter == "\x7f" or (not letter.isascii() and visible(letter) != letter):
        return f"\\u{ord(letter):04x}" if ord(letter) < 1 << 16 else f"\\U{ord(letter):08x}"
    return letter
