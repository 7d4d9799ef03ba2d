"""What differs between two configs: of two runs, of two versions of a dataset."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gpt.config import Config
from pipelines.visible import one_line

Change = tuple[str | None, str | None]
"""A value before and after; None where the key is missing."""


def flat(config: Config | Mapping[str, Any]) -> dict[str, str]:
    """Return a config as dotted keys and texts, the form of MLflow's parameters. A list is one text of JSON."""
    values = config.model_dump(mode="json") if isinstance(config, Config) else config
    return dict(_flatten(values, ""))


def _flatten(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Change]:
    """Return the keys whose values differ in two flat configs.

    Two lists of tables, such as sources, differ in keys such as `sources.0.uri`. A missing key equals an empty one.
    """
    before, after = expand(before), expand(after)
    pairs = {key: (before.get(key), after.get(key)) for key in {**before, **after}}
    return {key: pair for key, pair in pairs.items() if not _are_equal(*pair)}


EMPTY = ("null", "{}", "[]", "")


def _are_equal(before: str | None, after: str | None) -> bool:
    """Return whether two values mean the same. Before version 0.5.0, a path was stored as it was written."""
    is_same_place = before and after and after.startswith("/") and after.endswith(f"/{before}")
    return before == after or {before, after} <= {None, *EMPTY} or bool(is_same_place)


def change_lines(changed: Mapping[str, Change]) -> list[str]:
    """Return changes as lines such as `pretrain.seed: 0 → 7`, each on one line."""
    return [f"{key}: {_shown(old)} → {_shown(new)}" for key, (old, new) in changed.items()]


def _shown(value: str | None) -> str:
    return "nothing" if value is None else one_line(value) or '""'


def expand(config: Mapping[str, str]) -> dict[str, str]:
    """Return a flat config whose lists of tables are dotted keys too, such as `sources.0.uri`."""
    expanded: dict[str, str] = {}
    for key, text in config.items():
        expanded |= _tables(key, text) or {key: text}
    return expanded


def _tables(key: str, text: str) -> dict[str, str]:
    try:
        rows = json.loads(text) if text.startswith("[{") else []
    except ValueError:  # cut off by MLflow
        return {}
    return flat({f"{key}.{place}": row for place, row in enumerate(rows)})
