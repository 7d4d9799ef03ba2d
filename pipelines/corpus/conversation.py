"""Messages of a conversation and the order of their turns."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal

from gpt.config import Config


class Message(Config):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Role of the author."""
    content: str
    """Text of the message."""
    input: str = ""
    """Input of a user's instruction, if it is separate."""


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
