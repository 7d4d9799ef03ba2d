"""The columns of a table of texts: which holds the text, its label, a conversation, or an instruction and its response.

Names decide first, then values. A guess is tried on the records before it is believed: what `examples` rejects is no
example.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.corpus.turns import read_turns
from pipelines.errors import InputError, did_you_mean

TEXT = "text content body review comment message article document story sentence post abstract description title"
LABEL = "label class category sentiment target stars rating score polarity topic intent spam emotion toxic genre v1"
NO_LABEL = "id index split source url lang language date time author user name version license"
CONVERSATION = "messages conversations conversation turns dialog dialogue chat chosen"
RESPONSE = "response output completion answer reply chosen assistant solution"
INSTRUCTION = "instruction prompt question query input user human problem"
INPUT = "input context"
SYSTEM = "system system_prompt"

MOST_LABELS, LABEL_LENGTH = 50, 64
ENOUGH = 0.5  # share of the records that have to have a column, or to be examples
FEWEST = 8  # records that show what a column of labels is
SHOWN = 20  # columns in a sentence


@dataclass(frozen=True)
class Columns:
    """What the columns of some records are. Exactly one of text, response and conversation is set, if any is.

    labels: how often the values of `label` occur in the records.
    """

    text: str | None = None
    label: str | None = None
    labels: tuple[tuple[str, int], ...] = ()
    conversation: str | None = None
    instruction: str | None = None
    input: str | None = None
    response: str | None = None
    system: str | None = None

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that hold text."""
        return tuple(filter(None, (self.conversation or self.text, self.instruction, self.input, self.response)))

    @property
    def kind(self) -> str:
        """The examples that the records are: conversations, instructions, labels, or none."""
        if self.conversation:
            return "conversations"
        return "instructions" if self.response else "labels" if self.label else ""

    def roles(self) -> dict[str, str]:
        """Return the columns with what they seem to be."""
        found = {"text": self.text, "label": self.label, "conversation": self.conversation}
        found |= {"instruction": self.instruction, "input": self.input, "response": self.response}
        found |= {"system prompt": self.system}
        return {column: role for role, column in found.items() if column is not None}


def fields_of(records: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of the columns that records have."""
    return tuple(dict.fromkeys(name for record in records for name in record))


def _values(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of each column, without those that are empty."""
    return {name: [row[name] for row in records if row.get(name) not in (None, "")] for name in fields_of(records)}


def columns_of(records: Sequence[dict[str, Any]]) -> Columns | None:
    """Return what the columns of records are, or None if none of them holds text."""
    values = _values(records)
    names = list(values)
    enough = ENOUGH * len(records)
    full = [name for name in names if len(values[name]) >= enough]
    if talks := [name for name in full if _is_conversation(values[name], name)]:
        system = _first(SYSTEM, [name for name in names if name not in talks and _is_text(values[name])])
        return Columns(conversation=_first(CONVERSATION, talks) or talks[0], system=system)
    texts = [name for name in full if _is_text(values[name])]
    if not texts:
        return None
    response = _first(RESPONSE, texts)
    instruction = _first(INSTRUCTION, [name for name in texts if name != response])
    if response and instruction:
        taken = {response, instruction}
        others = [name for name in names if name not in taken and _is_text(values[name])]
        more = _first(INPUT, others)
        system = _first(SYSTEM, others)
        return Columns(instruction=instruction, response=response, input=more, system=system)
    labels = [name for name in full if _is_label(values[name], len(records))]
    text = _longest([name for name in texts if name not in labels] or texts, values)
    labels = [name for name in labels if name != text and _plain(name) not in NO_LABEL.split()]
    words = [name for name in labels if _is_text(values[name])] or labels
    label = _first(LABEL, labels) or (words[0] if len(words) == 1 else None)
    counted = Counter(str(value) for value in values[label]) if label else Counter[str]()
    return Columns(text=text, label=label, labels=tuple(counted.most_common()))


def texts_among(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the columns that hold text, without those that look like labels if others are left."""
    values, no_text = _values(records), (*LABEL.split(), *NO_LABEL.split())
    texts = [name for name in values if _plain(name) not in no_text and _is_text(values[name])]
    return [name for name in texts if not _is_label(values[name], len(records))] or texts


def check_column(name: str, fields: Sequence[str], file: str) -> None:
    """Check that a file has a column.

    Raises:
        InputError: it has none of this name.
    """
    if name not in fields:
        hint = did_you_mean(name, fields, f"there are {', '.join(fields[:SHOWN])}{', ...' * (len(fields) > SHOWN)}.")
        raise InputError(f"{file} has no column {name!r}; {hint}")


def without_header(names: Sequence[str], records: Sequence[dict[str, Any]]) -> bool:
    """Return whether the first row of a table, which was read as the names of its columns, is a record."""
    if any(len(name) > 60 or len(name.split()) > 6 for name in names):
        return True
    named = [name for name in names if name.strip()]
    if not named or all(_is_number(name) for name in named):
        return True
    return any(name in {record[name] for record in records} for name in named)


def names_of(records: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return names for columns that have only numbers: text and label for what they seem to be."""
    found = columns_of(records)
    names = {found.text: "text", found.label: "label"} if found else {}
    return tuple(names.get(name, name) for name in records[0])


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _first(wanted: str, names: Iterable[str]) -> str | None:
    """Return the name that comes first in a list of words, whatever its case."""
    by_plain = {_plain(name): name for name in reversed(list(names))}
    return next((by_plain[word] for word in wanted.split() if word in by_plain), None)


def _longest(names: Sequence[str], values: dict[str, list[Any]]) -> str:
    """Return the column of the text: a usual name, unless another is several times as long."""
    length = {name: sum(len(value) for value in values[name] if isinstance(value, str)) for name in names}
    longest = max(names, key=lambda name: length[name])
    usual = _first(TEXT, names)
    return usual if usual and 3 * length[usual] > length[longest] else longest


def _is_text(values: Sequence[Any]) -> bool:
    """Return whether most values are texts, and not all are numbers, dates or addresses."""
    texts = [value for value in values if isinstance(value, str)]
    words = [text for text in texts if re.search(r"[^\W\d_]{2}|[^\W\d_a-zA-Z]", text) and "://" not in text[:10]]
    return bool(values) and len(words) >= ENOUGH * len(values)


def _is_label(values: Sequence[Any], n_records: int) -> bool:
    """Return whether the values are a few short ones that recur."""
    if n_records < FEWEST or not all(isinstance(value, str | int | bool | float) for value in values):
        return False
    counts = Counter(str(value) for value in values)
    few = 2 <= len(counts) <= min(MOST_LABELS, n_records // 3)
    return (
        few and max(map(len, counts)) <= LABEL_LENGTH and sum(n for n in counts.values() if n > 1) > 0.8 * len(values)
    )


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?[\d.,:/ ]+", text.strip()))


def _is_conversation(values: Sequence[Any], name: str) -> bool:
    """Return whether most values are turns of messages with roles, or of texts under a name that says so."""
    named = _plain(name) in CONVERSATION.split()

    def is_spoken(value: Any) -> bool:
        if not isinstance(value, list | tuple | dict) and not named:
            return False
        try:
            return read_turns(value)[1] or named
        except ValueError:
            return False

    return bool(values) and _plain(name) != "rejected" and sum(map(is_spoken, values)) >= ENOUGH * len(values)
