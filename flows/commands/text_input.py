"""Text that a user hands to a command: in a file, or through standard input. Its encoding is detected."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from flows.environment import expand_user
from pipelines.errors import InputError

if TYPE_CHECKING:
    from pipelines.corpus.readers.records import ReadOptions


def input_lines(file: Path | None = None) -> Iterator[str]:
    """Yield the lines of a file, by default of standard input, without their ends.

    Bytes outside the encoding become U+FFFD. A guessed encoding is reported on standard error.

    Raises:
        InputError: the file cannot be read, or it is not text.
    """
    from pipelines.corpus.readers.encoding import open_text  # takes long to import
    from pipelines.corpus.readers.records import SURROGATE, UnreadableError

    stdin = getattr(sys.stdin, "buffer", None)
    if not file and (stdin is None or sys.stdin.isatty()):
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    try:
        opened: Any = expand_user(file).open("rb") if file else nullcontext(stdin)
        with opened as stream:
            text = open_text(stream, _options(stream, file))
            for line in text:
                yield SURROGATE.sub("\ufffd", line.removesuffix("\n"))
            text.detach()  # or standard input would be closed with it
    except IsADirectoryError:
        raise InputError(f"{file} is a folder; name a file.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    except UnreadableError as error:
        raise InputError(f"{file or 'Standard input'} cannot be read: {error}.") from None


def input_text(file: Path | None = None) -> str:
    """Return the text of a file, by default of standard input, as `input_lines` reads it."""
    return "\n".join(input_lines(file))


def _options(stream: BinaryIO, file: Path | None) -> ReadOptions:
    """Return the options of a stream. A pipe is read from its first bytes on, a file can be looked at first."""
    from pipelines.corpus.readers.look import look
    from pipelines.corpus.readers.records import ReadOptions

    options = ReadOptions(format="text", compression="none")
    if not file or not stream.seekable():
        return options
    looked = look(stream, file.name, options)
    for guess in looked.guesses:
        doubt = ", a doubtful guess" if guess.is_doubtful else ", guessed"
        typer.echo(f"{file} is read as {guess.value}{doubt}", err=True)
    return looked.options
