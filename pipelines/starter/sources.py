"""The sources of a config: what becomes the corpus, and what becomes examples to fine-tune on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.corpus.places import label_of
from pipelines.starter.columns import Columns
from pipelines.starter.survey import Kind, Survey

FEW_DOCUMENTS, PIECES = 60, 100  # so few are divided into about so many pieces
SHORTEST = 1_000  # characters of a piece
MOST_TASKS = 3
FEWEST_EXAMPLES = 20
LEFT_OUT = 100  # files that cannot be read, of a folder that is named as a whole
VALUES = 6  # labels that a comment shows


@dataclass(frozen=True)
class Source:
    """The keys of a source, and a comment for some of them."""

    keys: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A model to fine-tune, and the sources of its examples."""

    name: str
    kind: Kind
    sources: tuple[Source, ...]


def text_sources(survey: Survey) -> list[Source]:
    """Return the sources of the corpus: one for the whole if all of it is read in the same way, else one per kind."""
    plain = [kind for kind in survey.kinds if not kind.is_table]
    size, why = _max_document(survey)
    if len(plain) == len(survey.kinds) and _may_be_named(survey):
        return [Source({"uri": survey.uri, **size}, why)]
    found: list[Source] = []
    for kind in survey.kinds:
        for uri in kind.uris:
            if not kind.is_table:
                found.append(Source({"name": _label(uri, kind), "uri": uri, **size}, why))
                continue
            assert kind.columns
            several = len(kind.columns.read) > 1
            for column in kind.columns.read:
                name = f"{_label(uri, kind)}-{slug(column)}" if several else _label(uri, kind)
                keys = {"name": name, "uri": uri, **_read(kind), "text": column}
                what = "each turn's text" if kind.columns.conversation else f"it looks like the {_role(kind, column)}"
                found.append(Source(keys, {"text": what}))
    return _distinct(found)


def tasks_of(survey: Survey) -> list[Task]:
    """Return the models that the examples in somebody's text can make, at most one of a kind of files."""
    found: list[Task] = []
    for kind in survey.kinds:
        columns = kind.columns
        if columns is None or not columns.kind or kind.records < FEWEST_EXAMPLES or len(found) == MOST_TASKS:
            continue
        name = slug(columns.label or "") if columns.label else "assistant"
        comments: dict[str, str] = {}
        if columns.label:
            some = ", ".join(value for value, _ in columns.labels[:VALUES])
            comments["label"] = f"{some}{', ...' if len(columns.labels) > VALUES else ''}"
        sources = [Source(keys, comments) for keys in example_keys(kind, columns)]
        if name in [task.name for task in found]:
            name = f"{name}-{len(found) + 1}"
        found.append(Task(name, kind, tuple(sources)))
    return found


def example_keys(kind: Kind, columns: Columns) -> list[dict[str, Any]]:
    """Return the keys of the sources of a kind's examples, with these columns."""
    if columns.conversation:
        keys = {"conversation": columns.conversation, **({"system": columns.system} if columns.system else {})}
    elif columns.response:
        wanted = ("instruction", "input", "response", "system")
        keys = {name: column for name in wanted if (column := getattr(columns, name))}
    else:
        keys = {"text": str(columns.text), "label": str(columns.label)}
    return [{"uri": uri, **_read(kind), **keys} for uri in kind.uris]


def slug(text: str) -> str:
    """Return a text as a name of a config, with the letters that such a name may have."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "texts"


def _max_document(survey: Survey) -> tuple[dict[str, int], dict[str, str]]:
    """Return the key that divides few long documents, and its comment; neither if there are enough or little text."""
    n = sum(kind.records for kind in survey.kinds)
    length = survey.text_bytes // PIECES
    if n >= FEW_DOCUMENTS or length < SHORTEST // 5:
        return {}, {}
    why = "characters: longer texts are divided at a paragraph, so that parts of them can be held out"
    return {"max_document": _rounded(max(length, SHORTEST))}, {"max_document": why}


def _rounded(number: int) -> int:
    return int(float(f"{number:.1g}"))


def _may_be_named(survey: Survey) -> bool:
    """Return whether the whole folder can be a source: what cannot be read of it is little, and no table of records."""
    files = sum(len(kind.files) for kind in survey.unread)
    is_whole = files + sum(len(kind.files) for kind in survey.kinds) == survey.files
    if not is_whole or any(kind.format for kind in survey.unread):
        return False
    return files <= LEFT_OUT and sum(kind.bytes for kind in survey.unread) <= survey.text_bytes


def _read(kind: Kind) -> dict[str, Any]:
    return {"columns": list(kind.names)} if kind.names else {}


def _role(kind: Kind, column: str) -> str:
    return kind.columns.roles().get(column, "text") if kind.columns else "text"


def _label(uri: str, kind: Kind) -> str:
    name = label_of(uri).removesuffix(f".{kind.extension}")
    return f"{slug(name)}-{slug(kind.extension)}" if kind.extension else slug(name)


def _distinct(sources: Sequence[Source]) -> list[Source]:
    """Return sources with names that differ. A single one needs none."""
    if len(sources) == 1:
        return [Source({key: value for key, value in sources[0].keys.items() if key != "name"}, sources[0].comments)]
    found: list[Source] = []
    names: set[str] = set()
    for source in sources:
        name = str(source.keys["name"])
        number = next(
            number for number in range(1, len(names) + 2) if (f"{name}-{number}" if number > 1 else name) not in names
        )
        name = f"{name}-{number}" if number > 1 else name
        names.add(name)
        found.append(Source(source.keys | {"name": name}, source.comments))
    return found
