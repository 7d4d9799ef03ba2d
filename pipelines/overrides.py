"""Overrides: `section.key=value` each, which change a config before it is checked."""

import tomllib
from collections.abc import Sequence
from typing import Any

from pipelines.corpus.places import Typed
from pipelines.errors import InputError


def key_of(override: str) -> list[str]:
    """Return the parts of an override's key."""
    return override.partition("=")[0].strip().split(".")


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set the value of a key in a config's values. A number in the key is a place in a list, counted from 0.

    Raises:
        InputError: the override has another form, or its key leads nowhere.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override!r} is not of the form section.key=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()
    here: Any = values
    *path, last = key_of(override)
    for number, part in enumerate(path):
        here = _enter(here, part, path[:number], override)
    if isinstance(here, list):
        here[_index(here, last, path, override)] = mark_typed(value)
    elif isinstance(here, dict):
        if not here and last.isdecimal() and len(path) > 1:
            name = ".".join(path)
            raise InputError(f"--set {'.'.join(key_of(override))}: the config has no list {name!r}; give all of it.")
        here[last] = mark_typed(value)
    else:
        raise InputError(f"--set {'.'.join(key_of(override))}: {'.'.join(path)!r} is not a table in the config.")


def mark_typed(value: Any) -> Any:
    """Return a value whose texts are marked as typed, so that paths among them start from the current folder."""
    if isinstance(value, dict):
        return {key: mark_typed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [mark_typed(each) for each in value]
    return Typed(value) if isinstance(value, str) else value


def _enter(here: Any, part: str, path: Sequence[str], override: str) -> Any:
    """Return what a part of a key names in a table or a list; a table that is not there is made."""
    if isinstance(here, list):
        return here[_index(here, part, path, override)]
    if isinstance(here, dict):
        return here.setdefault(part, {})
    raise InputError(f"--set {'.'.join(key_of(override))}: {'.'.join(path)!r} is not a table in the config.")


def _index(values: Sequence[Any], part: str, path: Sequence[str], override: str) -> int:
    if part.isdecimal() and int(part) < len(values):
        return int(part)
    known = f"only {'.'.join(path)}.0" if len(values) == 1 else f"{'.'.join(path)}.0 to {len(values) - 1}"
    known = known if values else "nothing"
    key, name = ".".join(key_of(override)), ".".join(path)
    raise InputError(f"--set {key}: there is no {part!r} in the list {name!r}, which has {known}.")
