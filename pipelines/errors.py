"""Errors whose text is one sentence for people: what is wrong, where, and what to do."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

from pipelines.addresses import without_secrets
from pipelines.visible import visible

Kind = TypeVar("Kind", bound=BaseException)


class ClearError(Exception):
    """An error whose text is one clear sentence.

    The text loses the passwords and tokens of its addresses, and its control characters become visible, since
    terminals, Prefect, MLflow and logs show errors. It ends with one period, also where it quotes a whole sentence.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(re.sub(r"(?<!\.)\.\.$", ".", visible(without_secrets(sentence))))


class InputError(ClearError):
    """Bad input (a config, a file, a name). The command line exits with 2."""


class ServerAway(ClearError):
    """A server did not answer for too long. The command line exits with 1."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the end of a sentence about an unknown name: the nearest known one, else what to do instead."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those behind it, which it was raised from, hides or groups."""
    left, seen = [error], set()
    while left:
        if id(each := left.pop(0)) not in seen:
            yield each
            seen.add(id(each))
            left += [behind for behind in (each.__cause__, each.__context__) if behind]
            left += each.exceptions if isinstance(each, BaseExceptionGroup) else []


def cause_of(error: BaseException, kind: type[Kind]) -> Kind | None:
    """Return the first error of a kind among an error and those behind it."""
    return next((each for each in causes(error) if isinstance(each, kind)), None)
