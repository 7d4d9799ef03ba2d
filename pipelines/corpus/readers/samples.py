"""Readers of the formats in which the sample packages carry their text."""

import ast
import io
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, BinaryIO

import yaml

from pipelines.corpus.readers.encoding import open_text
from pipelines.corpus.readers.records import (
    MAX_REASON,
    SURROGATE,
    Bad,
    ReadOptions,
    Record,
    UnreadableError,
    read_whole,
)

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C takes a tenth of the time
TAGS = {None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))}
ENTRY = re.compile("^( *)- - ", re.MULTILINE)  # the beginning of a conversation
MAX_DEPTH = 100
MAX_EVENTS = 100_000  # of any small file; a larger one may have one for each eight characters
MAX_BAD = 1000  # entries of a file that are no conversations
MAX_PARSED = 16 << 20  # bytes of a file of which each byte may become an object


def read_conversations(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read YAML with `conversations`, each a list of turns, and optionally `categories`."""
    text = open_text(io.BytesIO(read_whole(file, MAX_PARSED)), options).read()
    most = MAX_EVENTS + len(text) // 8
    conversations: list[Any]
    try:
        value = _texts(yaml.parse(text, LOADER), most)
    except (yaml.MarkedYAMLError, yaml.reader.ReaderError) as error:
        head, *entries = _entries(text)
        if not entries:
            raise UnreadableError(_why(error)) from None
        value, conversations = _entry(head, most), [_entry(entry, most) for entry in entries]
    except yaml.YAMLError as error:
        raise UnreadableError(_why(error)) from None
    else:
        conversations = value.get("conversations") if isinstance(value, dict) else value
        if not isinstance(conversations, list):
            raise UnreadableError("no list of conversations in this file")
    categories = value.get("categories") if isinstance(value, dict) else None
    n_bad = 0
    for number, turns in enumerate(conversations, 1):
        if isinstance(turns, list) and len(turns) > 1 and all(isinstance(turn, str) for turn in turns):
            yield Record({"messages": turns, "categories": categories}, f"conversation {number}")
        else:
            reason = turns.reason if isinstance(turns, Bad) else "not a list of two or more turns"
            yield Bad(reason, f"conversation {number}", (turns.text if isinstance(turns, Bad) else str(turns))[:1000])
            if (n_bad := n_bad + 1) > MAX_BAD:
                raise UnreadableError(f"more than {MAX_BAD:,} entries are no conversations")


def _why(error: yaml.YAMLError) -> str:
    return f"not YAML: {' '.join(str(error).split())}"


def _entries(text: str) -> list[str]:
    """Return the text before the list of conversations, and the lines of each."""
    first = ENTRY.search(text)
    if not first:
        return [text]
    starts = [found.start() for found in re.finditer(rf"^{first[1]}- ", text, re.MULTILINE)]
    return [text[: first.start()], *(text[start:end] for start, end in pairwise([*starts, len(text)]))]


def _entry(text: str, most: int) -> Any:
    """Return the value of one entry of a list, or of what comes before it. A broken one is a `Bad`."""
    try:
        value = _texts(yaml.parse(text, LOADER), most)
    except yaml.YAMLError as error:
        return Bad(_why(error), "", text)
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _texts(events: Iterable[yaml.Event], most: int) -> Any:
    """Return the value of YAML, in which every scalar is a text: `Yes` is an answer, and 1.10 is not 1.1.

    It is built from the parser's events, which have no depth and no copies.

    Raises:
        yaml.YAMLError: the YAML is not well-formed, has more than the `most` events, or an alias, a tag or a second
            document.
    """
    documents: list[Any] = []
    open_: list[list[Any]] = [documents]  # the lists and mappings that have begun, each as a list of its parts
    for number, event in enumerate(events):
        if number > most:
            raise yaml.YAMLError("too many values for so few bytes")
        if isinstance(event, yaml.AliasEvent):  # a few bytes of aliases unfold to more than memory holds
            raise yaml.YAMLError("an alias (*), which is not read")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag not in TAGS:
            raise yaml.YAMLError(f"a tag ({str(event.tag)[:100]}), which is not read")
        if isinstance(event, yaml.ScalarEvent):
            open_[-1].append(event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(open_) > MAX_DEPTH:
                raise yaml.YAMLError("nested too deeply")
            open_.append([])
        elif isinstance(event, yaml.CollectionEndEvent):
            parts = open_.pop()
            open_[-1].append(_mapping(parts) if isinstance(event, yaml.MappingEndEvent) else parts)
        elif isinstance(event, yaml.DocumentStartEvent) and documents:
            raise yaml.YAMLError("more than one document")
    return documents[0] if documents else None


def _mapping(parts: list[Any]) -> dict[str, Any]:
    names, values = parts[::2], parts[1::2]
    if not all(isinstance(name, str) for name in names):
        raise yaml.YAMLError("a key that is not a text")
    return dict(zip(names, values, strict=True))


def read_python_dict(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read a Python file that assigns a literal dict of texts to a name, without running it. An entry is a record."""
    try:
        tree = ast.parse(read_whole(file, MAX_PARSED))
        values = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
        entries = [item for value in values for item in ast.literal_eval(value).items()]
    except (SyntaxError, RecursionError) as error:
        raise UnreadableError(f"not a Python file of literals: {error}") from None
    except MemoryError:  # Python's parser raises it for depth too
        raise UnreadableError("not a Python file of literals: it is nested too deeply or too large") from None
    for key, text in ((SURROGATE.sub("\ufffd", str(key)), text) for key, text in entries):
        if isinstance(text, str):
            yield Record({"key": key, "text": text}, f"entry {key[:MAX_REASON]}")
        else:
            yield Bad("the value is not a text", f"entry {key[:MAX_REASON]}", str(text)[:1000])
