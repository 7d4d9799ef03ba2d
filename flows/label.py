"""What tells one run from another: a name, a note, tags, and what `--set` changed."""

from collections.abc import Mapping

from gpt.config import Config
from pipelines.changes import changes, expand, flat
from pipelines.config import RunConfig
from pipelines.visible import one_line


class Label(Config):
    """What a person says about a run when it starts."""

    name: str = ""
    """Name of the run; by default what differs from the run before."""
    note: str = ""
    """Text for the run's description, in Markdown."""
    tags: tuple[str, ...] = ()
    """Tags of the run, `KEY=VALUE` or a word each."""
    overrides: tuple[str, ...] = ()
    """What `--set` changed in the config, `section.key=value` each."""


LONGEST, LONGEST_KEY, LONGEST_VALUE = 60, 40, 24  # characters of a title, and of a key and a value in it


def run_title(config: RunConfig, label: Label, before: Mapping[str, str] | None) -> str:
    """Return the name of a run, such as `wiki · learning_rate=0.003`.

    Args:
        config: the run's config.
        label: what a person says about it. A name replaces the title.
        before: the flat config of the run before; None if this is the first one.
    """
    if label.name:
        return _short(label.name, LONGEST)
    after = flat(config)
    title, room = config.name, LONGEST - len(config.name)
    pieces = _pieces(before if before is not None else after, after, label.overrides)
    for at, piece in enumerate(pieces):
        if len(piece) + 2 > room and at:
            return f"{title}, …"
        title += f"{', ' if at else ' · '}{piece}"
        room -= len(piece) + 2
    return title


def _pieces(before: Mapping[str, str], after: Mapping[str, str], overrides: tuple[str, ...]) -> list[str]:
    """Return what differs, then what else `--set` changed, each in a few characters."""
    before, after = expand(before), expand(after)
    tables_before, tables_after = _tables(before), _tables(after)
    pieces = []
    for key, (old, new) in changes(before, after).items():
        if old is not None and new is not None:
            pieces.append(_piece(key, after))
            continue
        other = tables_before if old is None else tables_after
        if missing := [table for table in _prefixes(key)[:-1] if table not in other]:
            pieces.append(f"{'+' if old is None else '-'}{_short(missing[0], LONGEST_KEY)}")
        # else one version of tokenmill lacks the key
    keys = (override.partition("=")[0].strip() for override in overrides)
    return list(dict.fromkeys([*pieces, *(_piece(key, after) for key in keys if key in after)]))


def _piece(key: str, config: Mapping[str, str]) -> str:
    return f"{_short(short_key(key, config), LONGEST_KEY)}={_short(config[key], LONGEST_VALUE)}"


def short_key(key: str, config: Mapping[str, str]) -> str:
    """Return the end of a key that no other key of a config has; keys of pretraining need not differ from others."""
    others = [each for each in config if each != key]
    if key.startswith("pretrain."):
        others = [each for each in others if each.startswith("pretrain.")]
    parts = key.split(".")
    ends = (".".join(parts[at:]) for at in range(len(parts) - 1, 0, -1))
    return next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), key)


def _tables(config: Mapping[str, str]) -> set[str]:
    return {table for key in config for table in _prefixes(key)}


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[: at + 1]) for at in range(len(parts))]


def _short(text: str, limit: int) -> str:
    text = one_line(" ".join(text.split()))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
