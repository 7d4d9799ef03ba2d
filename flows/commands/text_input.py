"""Text that a user hands to a command: in a file, or through standard input. Its encoding is detected."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipelines.errors import InputError


def input_lines(file: Path | None = None) -> Iterator[str]:
    """Yield the lines of a file, by default of standard input, without their ends.

    Bytes outside the encoding become U+FFFD.

    Raises:
        InputError: the file cannot be read, or it is not text.
    """
    from pipelines.corpus.readers.encoding import open_text  # takes long to import
    from pipelines.corpus.readers.records import SURROGATE, ReadOptions, UnreadableError

    stdin = getattr(sys.stdin, "buffer", None)
    if not file and (stdin is None or sys.stdin.isatty()):
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    try:
        opened: Any = file.expanduser().open("rb") if file else nullcontext(stdin)
        with opened as stream:
            text = open_text(stream, ReadOptions())
            for line in text:
                yield SURROGATE.sub("\ufffd", line.removesuffix("\n"))
            text.detach()  # or standard input would be closed with it
    except IsADirectoryError:
        raise InputError(f"{file} is a folder; name a file.") from None
    except (OSError, RuntimeError) as error:  # of expanduser, if there is no such user
        raise InputError(f"{file} cannot be read: {getattr(error, 'strerror', error)}.") from None
    except UnreadableError as error:
        raise InputError(f"{file or 'Standard input'} cannot be read: {error}.") from None


def input_text(file: Path | None = None) -> str:
    """Return the text of a file, by default of standard input, as `input_lines` reads it."""
    return "\n".join(input_lines(file))
