"""Messages of a conversation: how files write them, and the order of their turns."""

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from gpt.config import Config
from pipelines.corpus.cells import is_missing, text_of
from pipelines.corpus.readers.records import short_line
from pipelines.corpus.readers.weight import too_heavy

# Names of the roles in other formats: ShareGPT, Gemini, OpenAssistant, and OpenAI's newer name of the system.
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "ai", "chatgpt"), "assistant"),
}
ROLE, CONTENT = ("role", "from"), ("content", "value", "parts", "text")  # the keys of a message, in other formats too
TEXT_PARTS = (None, "text", "input_text", "output_text")

# What a message may hold beside its text, which changes its meaning if it is left out.
NOT_TEXT = ("tool_calls", "function_call", "refusal", "audio", "image", "images", "videos", "reasoning_content",
            "reasoning", "thinking")  # fmt: skip


class Message(Config):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Role of the author."""
    content: str
    """Text of the message."""
    input: str = ""
    """Input of a user's instruction, if it is separate."""


def read_turns(turns: Any) -> tuple[list[Message], bool]:
    """Return the messages of a conversation, and whether they have roles. Turns without roles alternate.

    Args:
        turns: a list of texts or of messages; or the same as JSON; or a table of messages, as a list for each key.

    Raises:
        ValueError: there are fewer than two turns, or one of them is malformed or holds more than text.
    """
    turns = _as_list(turns)
    if len(turns) < 2:
        raise ValueError("fewer than two turns")
    if not isinstance(turns[0], dict):
        return [_plain(turn, number) for number, turn in enumerate(turns, 1)], False
    return [_message(turn, number) for number, turn in enumerate(turns, 1)], True


def _as_list(turns: Any) -> Sequence[Any]:
    if isinstance(turns, str) and turns.lstrip("\ufeff \t\r\n").startswith(("[", "{")):
        if too_heavy(turns.encode()):
            raise ValueError("the conversation has too many values")
        try:
            turns = json.loads(turns.strip("\ufeff \t\r\n"))
        except (ValueError, RecursionError):
            raise ValueError("the conversation is a text that is not JSON") from None
    if isinstance(turns, dict):
        columns = {name: values for name, values in turns.items() if isinstance(values, list | tuple)}
        if columns and len(set(map(len, columns.values()))) == 1:
            return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if not isinstance(turns, list | tuple):
        raise ValueError("the conversation is not a list of turns")
    return turns


def _plain(turn: Any, number: int) -> Message:
    if isinstance(turn, dict):
        raise ValueError(f"turn {number} is a message with a role, unlike the first")
    content = _content(turn, number)
    if not content:
        raise ValueError(f"turn {number} has no text")
    return Message(role="user" if number % 2 else "assistant", content=content)


def _message(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise ValueError(f"turn {number} is a text, unlike the first")
    name = _first(turn, ROLE)
    if name is None:
        raise ValueError(f"turn {number} has no role; its keys are {short_line(', '.join(map(str, turn)), 200)}")
    role: Any = ROLES.get(str(name).strip().lower())
    if role is None:
        raise ValueError(
            f"turn {number} has the role {short_line(str(name), 100)!r}; it must be system, user or assistant"
        )
    for key in NOT_TEXT:
        if key in turn and turn[key] and not is_missing(turn[key]):
            raise ValueError(f"turn {number} has {key!r}; only text is read")
    weight = turn.get("weight")
    if role == "assistant" and not is_missing(weight) and weight != 1:
        raise ValueError(f"turn {number} has the weight {short_line(str(weight), 100)}; only 1 is supported")
    content = _content(_first(turn, CONTENT), number)
    if not content and role != "system":  # an empty system prompt is none
        raise ValueError(f"turn {number} has no text")
    return Message(role=role, content=content)


def _content(value: Any, number: int) -> str:
    """Return the text of a message, whose parts are on lines of their own."""
    parts = value if isinstance(value, list | tuple) else [value]
    texts = []
    for part in parts:
        if isinstance(part, dict):
            kind, text = part.get("type"), part.get("text")
            if kind not in TEXT_PARTS or not isinstance(text, str):
                held = kind or ", ".join(str(key) for key, each in part.items() if each is not None)
                raise ValueError(f"turn {number} has the part {short_line(str(held), 100)!r}; only text is read")
            part = text
        try:
            texts.append(text_of(part, "content"))
        except UnicodeEncodeError:
            raise
        except ValueError:
            raise ValueError(f"turn {number} holds {type(part).__name__}, not text") from None
    return "\n".join(filter(None, texts))


def _first(turn: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first value that a message has under one of its names."""
    return next((turn[name] for name in names if not is_missing(turn.get(name))), None)


def check_turns(messages: Sequence[Message]) -> None:
    """Check that user and assistant take turns, after an optional system prompt, and that the last turn is an answer.

    Raises:
        ValueError: they do not.
    """
    first = 1 if messages and messages[0].role == "system" else 0
    for number, message in enumerate(messages[first:]):
        due = ("user", "assistant")[number % 2]
        if message.role != due:
            raise ValueError(f"turn {first + number + 1} is the {message.role}'s, where the {due}'s was due")
    if (len(messages) - first) % 2 or len(messages) == first:
        raise ValueError("the last turn has no answer" if len(messages) > first else "nobody says anything")


def recent(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> Sequence[Message] | None:
    """Drop the oldest exchanges of a conversation until it fits. Return None if even the last does not fit.

    The system prompt stays. If several exchanges fit, fewer of them fit too, so few lengths are tried.
    """
    first = 1 if messages[0].role == "system" else 0
    cuts = range(first, len(messages), 2)

    def fit(number: int) -> bool:
        return fits(kept(number))

    def kept(number: int) -> Sequence[Message]:
        return [*messages[:first], *messages[cuts[-number] :]]

    if fit(len(cuts)):
        return messages
    number = 1 + bisect_left(range(2, len(cuts)), True, key=lambda number: not fit(number))
    return kept(number) if number > 1 or fit(1) else None
