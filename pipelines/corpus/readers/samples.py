"""Readers of the formats in which the sample packages carry their text."""

import ast
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import yaml

from pipelines.corpus.readers.encoding import open_text
from pipelines.corpus.readers.records import SURROGATE, Bad, ReadOptions, Record, UnreadableError, read_whole


def read_conversations(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read YAML with `conversations`, each a list of turns, and optionally `categories`."""
    try:
        text = open_text(io.BytesIO(read_whole(file)), options).read()
        value = yaml.load(text, _Texts)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise UnreadableError(f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UnreadableError("YAML nested too deeply") from None
    conversations = value.get("conversations") if isinstance(value, dict) else value
    if not isinstance(conversations, list):
        raise UnreadableError("no list of conversations in this file")
    categories = value.get("categories") if isinstance(value, dict) else None
    for number, turns in enumerate(conversations, 1):
        if isinstance(turns, list) and len(turns) > 1 and all(isinstance(turn, str) for turn in turns):
            yield Record({"messages": turns, "categories": categories}, f"conversation {number}")
        else:
            yield Bad("not a list of two or more turns", f"conversation {number}", str(turns)[:1000])


class _Texts(yaml.SafeLoader):
    """A loader that reads every scalar as text: `Yes` is an answer, and 1.10 is not 1.1."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few bytes of aliases unfold to more than memory holds
            raise yaml.YAMLError("an alias (*), which is not read")
        return super().compose_node(parent, index)


_Texts.yaml_implicit_resolvers = {}


def read_python_dict(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read a Python file that assigns a literal dict of texts to a name, without running it. An entry is a record."""
    try:
        tree = ast.parse(read_whole(file))
        values = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
        entries = [item for value in values for item in ast.literal_eval(value).items()]
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise UnreadableError(f"not a Python file of literals: {error}") from None
    for key, text in ((SURROGATE.sub("\ufffd", str(key)), text) for key, text in entries):
        if isinstance(text, str):
            yield Record({"key": key, "text": text}, f"entry {key}")
        else:
            yield Bad("the value is not a text", f"entry {key}", str(text)[:1000])
