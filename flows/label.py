"""What tells one run from another: a name, a note, tags, and what `--set` changed."""

import re
from collections.abc import Mapping, Sequence

from pydantic import ValidationError, field_validator

from gpt.config import Config
from pipelines.changes import changes, expand, flat
from pipelines.config import RunConfig, explain
from pipelines.errors import InputError
from pipelines.visible import one_line, shorten


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

    @field_validator("tags")
    @classmethod
    def _own_tags(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        for key in (tag.partition("=")[0] for tag in tags):
            if not TAG.fullmatch(key) or key.startswith(("mlflow.", "tokenmill.", "prefect.")):
                raise ValueError(
                    f"{key!r} cannot be a tag: a tag has letters, digits, spaces and _ - . :, and does not begin with "
                    "mlflow., tokenmill. or prefect."
                )
        return tags

    @property
    def is_given(self) -> bool:
        """Whether a person has named, described or tagged the run."""
        return bool(self.name or self.note or self.tags)

    @property
    def set_keys(self) -> list[str]:
        """The keys that `--set` changed."""
        return [override.partition("=")[0].strip() for override in self.overrides]

    @property
    def tags_by_key(self) -> dict[str, str]:
        """The tags with their values; `true` where a tag is a word."""
        return {key: value or "true" for key, _, value in (tag.partition("=") for tag in self.tags)}


NO_LABEL = Label()


def make_label(name: str = "", note: str = "", tags: Sequence[str] = (), overrides: Sequence[str] = ()) -> Label:
    """Return the label of a run from what a person has typed.

    Raises:
        InputError: MLflow accepts no such name or tag.
    """
    try:
        return Label(name=name, note=note, tags=tuple(tags), overrides=tuple(overrides))
    except ValidationError as error:
        raise InputError(explain(error, Label)) from None


TAG = re.compile(r"\w[\w. :-]{0,249}")
"""Keys of tags that MLflow accepts and searches."""


LONGEST, LONGEST_KEY, LONGEST_VALUE = 60, 40, 24  # characters of a title, and of a key and a value in it


def run_title(config: RunConfig, label: Label, before: Mapping[str, str] | None) -> str:
    """Return the name of a run, such as `wiki · learning_rate=0.003`.

    Args:
        config: the run's config.
        label: what a person says about it. A name replaces the title.
        before: the flat config of the run before; None if this is the first one.
    """
    what = what_differs(config, label, before)
    if label.name:
        return what
    return f"{config.name} · {what}" if what else config.name


def what_differs(config: RunConfig, label: Label, before: Mapping[str, str] | None) -> str:
    """Return what tells a run from others of its config in a few words; empty if nothing does."""
    if label.name:
        return _short(label.name, LONGEST)
    after = flat(config)
    pieces, room = _pieces(after if before is None else before, after, label), LONGEST - len(config.name)
    listed = ""
    for piece in pieces:
        if listed and len(listed) + len(piece) + 2 > room:
            return f"{listed}, …"
        listed += f", {piece}" if listed else piece
    return listed


def _pieces(before: Mapping[str, str], after: Mapping[str, str], label: Label) -> list[str]:
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
    return list(dict.fromkeys([*pieces, *(_piece(key, after) for key in label.set_keys if key in after)]))


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
    return shorten(one_line(" ".join(text.split())), limit)
