"""How a conversation is written for a model to read: templates as data.

A template is a TOML file of a few strings; those that ship lie in `pipelines/templates/`. It writes a conversation as
runs of tokens, each encoded by itself: what is said to the model, and its answers, which end with the end of turn. So
the tokens where two runs meet are the same in training and in use, and which of them are an answer's is exact.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from gpt.config import Config
from pipelines.corpus.conversation import Message
from pipelines.errors import InputError
from pipelines.tokens.tokenizer import Tokenizer

FOLDER = Path(__file__).parent / "templates"


PLACE = re.compile(r"\{(?:content|input)\}")


class Template(Config):
    """The strings that a conversation is written with. `{content}` stands for what is said.

    Special tokens are found in these strings alone: one that a user spells out is encoded letter by letter, so that
    nobody can write another's turn.
    """

    special: tuple[str, ...] = Field(
        default=(), description="Marks that become tokens of their own, added to the vocabulary."
    )
    system: str = Field(description="A system prompt, at the start.")
    default_system: str = Field(default="", description="The system prompt of a conversation without one.")
    default_system_with_input: str = Field(default="", description="The same, where the instruction has an input.")
    user: str = Field(description="What the user says.")
    user_with_input: str = Field(
        default="", description="The same with an `{input}`; by default below the instruction."
    )
    assistant: str = Field(description="What stands before an answer.")
    end_of_turn: str = Field(min_length=1, description="What the model learns to end an answer with.")
    after_turn: str = Field(default="", description="What stands between an answer and the next turn.")

    @model_validator(mode="after")
    def _check_places(self) -> Self:
        both = ["{content}", "{input}"]
        places = {"system": both[:1], "user": both[:1], "user_with_input": both if self.user_with_input else []}
        for name in ("system", "user", "user_with_input", "assistant", "end_of_turn", "after_turn"):
            wanted = places.get(name, [])
            if sorted(PLACE.findall(getattr(self, name))) != wanted:
                raise ValueError(f"{name} must hold {' and '.join(wanted) or 'none of {content} and {input}'}, once")
        return self

    def runs(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> Iterator[tuple[list[int], bool]]:
        """A conversation's token ids in runs, and of each whether it is an answer with its end of turn.

        Where the last message is no answer, the last run asks for one.
        """
        end, unwritten = self.end_ids(tokenizer), list[tuple[str, Message]]()
        for message in self._with_system(messages):
            if message.role == "assistant":
                yield self._encode(tokenizer, [*unwritten, (self.assistant, message)]), False
                yield [*tokenizer.encode(message.content).tolist(), *end], True
                unwritten = [(self.after_turn, message)]
            else:
                unwritten.append(self._said(message))
        if messages[-1].role != "assistant":
            yield self._encode(tokenizer, [*unwritten, (self.assistant, message)]), False

    def prompt(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation whose last message waits for an answer."""
        return [token for ids, _ in self.runs(tokenizer, messages) for token in ids]

    def end_ids(self, tokenizer: Tokenizer) -> list[int]:
        """The ids of the end of turn: one, where the tokenizer knows it as a special token."""
        return self._encode(tokenizer, [(self.end_of_turn, Message(role="assistant", content=""))])

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        default = (messages[0].input and self.default_system_with_input) or self.default_system
        if messages[0].role == "system" or not default:
            return messages
        return [Message(role="system", content=default), *messages]

    def _said(self, message: Message) -> tuple[str, Message]:
        """The pattern that a message is written with, and the message."""
        if message.role == "system":
            return self.system, message
        if message.input and not self.user_with_input:
            return self.user, Message(role="user", content=f"{message.content}\n\n{message.input}")
        return (self.user_with_input if message.input else self.user), message

    def _encode(self, tokenizer: Tokenizer, said: Sequence[tuple[str, Message]]) -> list[int]:
        """The ids of patterns, each filled with its message."""
        marks = re.compile("|".join([PLACE.pattern, *map(re.escape, tokenizer.special)]).join("()"))
        ids: list[int] = []
        text = ""
        for pattern, message in said:
            for piece in marks.split(pattern):
                if piece in tokenizer.special:
                    ids += [*tokenizer.encode(text).tolist(), tokenizer.special[piece]]
                    text = ""
                else:
                    text += {"{content}": message.content, "{input}": message.input}.get(piece, piece)
        return ids + tokenizer.encode(text).tolist()


def shipped() -> dict[str, Path]:
    """The files of the templates that ship, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def template_named(value: Any) -> Any:
    """A template for the name of a shipped one, or for the path of a TOML file; anything else as it is.

    Raises:
        ValueError: there is no such template, or the file holds none.
    """
    if not isinstance(value, str):
        return value
    path = Path(value) if value.endswith(".toml") else shipped().get(value)
    if path is None or not path.is_file():
        raise ValueError(f"there is no template {value!r}; name one of {', '.join(shipped())}, or a TOML file")
    try:
        return Template.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the template {path} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise ValueError(f"{path} is not a template: {_first(error)}") from None


NamedTemplate = Annotated[Template, BeforeValidator(template_named)]
"""A config's template: it enters the config with what it says, so that an edited file is a new version."""


def load_template(path: Path) -> Template:
    """
    Raises:
        InputError: the file does not hold a template.
    """
    try:
        return Template.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} is not a template: {_first(error)}.") from None


def save_template(template: Template, path: Path) -> None:
    """Write a template as JSON, beside the model that learnt it."""
    path.write_text(json.dumps(template.model_dump(), indent=1))


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
