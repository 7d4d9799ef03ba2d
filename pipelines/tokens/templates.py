"""Chat templates: TOML files that define how a conversation is written for a model.

A template holds a few strings. The shipped ones are stored in `pipelines/tokens/templates/`. A template writes a
conversation as runs of tokens: prompts for the model, and its answers, which end with the end of turn. Each run is
encoded separately, so the tokens at the borders are the same in training and in use, and each token belongs to
exactly one run.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, model_validator

from gpt.config import Config
from pipelines.corpus.conversation import Message
from pipelines.corpus.places import absolute_place
from pipelines.errors import InputError
from pipelines.tokens.tokenizer import Tokenizer

FOLDER = Path(__file__).parent / "templates"
PLACE = re.compile(r"\{(?:content|input)\}")


class Template(Config):
    """The strings around the messages of a conversation. `{content}` is replaced by a message.

    Special tokens are found in these strings only. A special token in a message is encoded letter by letter, so no
    message can start a turn.
    """

    special: tuple[str, ...] = ()
    """Special tokens that the template adds to the vocabulary."""
    system: str
    """The system prompt at the start."""
    default_system: str = ""
    """The system prompt of a conversation without one."""
    default_system_with_input: str = ""
    """The same, for an instruction with an input."""
    user: str
    """A message of the user."""
    user_with_input: str = ""
    """The same with an `{input}`, by default after the instruction."""
    assistant: str
    """The text before an answer."""
    end_of_turn: str = Field(min_length=1)
    """The text that ends an answer, which the model learns to write."""
    after_turn: str = ""
    """The text between an answer and the next turn."""

    @model_validator(mode="after")
    def _check_places(self) -> Self:
        both = ["{content}", "{input}"]
        places = {"system": both[:1], "user": both[:1], "user_with_input": both if self.user_with_input else []}
        for name in ("system", "user", "user_with_input", "assistant", "end_of_turn", "after_turn"):
            wanted = places.get(name, [])
            if sorted(PLACE.findall(getattr(self, name))) != wanted:
                raise ValueError(f"{name} must hold {' and '.join(wanted) or 'none of {content} and {input}'}, once")
        if any(not token or PLACE.search(token) for token in self.special):
            raise ValueError("special must hold texts, without {content} and {input}")
        return self

    def runs(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> Iterator[tuple[list[int], bool]]:
        """Yield a conversation's token ids in runs, and whether each is an answer with its end of turn.

        If the last message is not an answer, the last run asks for one.
        """
        end, unwritten = self.end_ids(tokenizer), list[tuple[str, Message]]()
        for message in self._with_system(messages):
            if message.role == "assistant":
                yield self._encode(tokenizer, [*unwritten, (self.assistant, message)]), False
                yield [*tokenizer.encode(message.content).tolist(), *end], True
                unwritten = [(self.after_turn, message)]
            else:
                unwritten.append(self._pattern(message))
        if messages[-1].role != "assistant":
            yield self._encode(tokenizer, [*unwritten, (self.assistant, message)]), False

    def prompt(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a conversation that ends with a prompt for an answer."""
        return [token for ids, _ in self.runs(tokenizer, messages) for token in ids]

    def end_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of the end of turn, a single one if it is a special token of the tokenizer."""
        return self._encode(tokenizer, [(self.end_of_turn, Message(role="assistant", content=""))])

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        default = (messages[0].input and self.default_system_with_input) or self.default_system
        if messages[0].role == "system" or not default:
            return messages
        return [Message(role="system", content=default), *messages]

    def _pattern(self, message: Message) -> tuple[str, Message]:
        """Return the string around a message, and the message."""
        if message.role == "system":
            return self.system, message
        if message.input and not self.user_with_input:
            return self.user, Message(role="user", content=f"{message.content}\n\n{message.input}")
        return (self.user_with_input if message.input else self.user), message

    def _encode(self, tokenizer: Tokenizer, patterns: Sequence[tuple[str, Message]]) -> list[int]:
        """Return the ids of patterns, each filled with its message."""
        longest_first = sorted(tokenizer.special, key=len, reverse=True)  # one may be the beginning of another
        borders = re.compile("|".join([PLACE.pattern, *map(re.escape, longest_first)]).join("()"))
        ids: list[int] = []
        text = ""
        for pattern, message in patterns:
            for piece in borders.split(pattern):
                if piece in tokenizer.special:
                    ids += [*tokenizer.encode(text).tolist(), tokenizer.special[piece]]
                    text = ""
                else:
                    text += {"{content}": message.content, "{input}": message.input}.get(piece, piece)
        return ids + tokenizer.encode(text).tolist()


def shipped() -> dict[str, Path]:
    """Return the files of the shipped templates, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def template_named(value: Any) -> Any:
    """Return the template of a shipped name or of a TOML file's path. Return any other value unchanged.

    Raises:
        ValueError: there is no such template, or the file is not a template.
    """
    if not isinstance(value, str):
        return value
    path = Path(os.path.expanduser(value)) if value.endswith(".toml") else shipped().get(value)  # noqa: PTH111 - never fails
    if path is None or not path.is_file():
        raise ValueError(f"there is no template {value!r}; name one of {', '.join(shipped())}, or a TOML file")
    try:
        return Template.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise ValueError(f"the template {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the template {path} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise ValueError(f"{path} is not a template: {_first(error)}") from None


def _template_of_config(value: Any, info: ValidationInfo) -> Any:
    is_file = isinstance(value, str) and value.endswith(".toml")
    return template_named(absolute_place(value, info) if is_file else value)


NamedTemplate = Annotated[Template, BeforeValidator(_template_of_config)]
"""The template of a config. The config stores its strings, so an edited file makes a new version."""


def load_template(path: Path) -> Template:
    """Load a template that `save_template` has written.

    Raises:
        InputError: the file is not a template.
    """
    try:
        return Template.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} is not a template: {_first(error)}.") from None


def save_template(template: Template, path: Path) -> None:
    """Write a template as JSON, beside its model."""
    path.write_text(json.dumps(template.model_dump(), indent=1))


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
