"""The turns of a conversation, as the formats of other tools write them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.corpus.cells import is_missing, text_of
from pipelines.corpus.conversation import Message
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
            raise ValueError("the conversation is a text that is not JSON, as json.dumps writes it") from None
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
