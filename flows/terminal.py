"""The standard streams of the command line: somebody else's text never reaches a terminal with control characters.

`prepare_streams` puts a `VisibleStream` in place of standard output and standard error. All that anybody prints passes
it: commands, errors, warnings, tracebacks and logs. `results` goes around it for a file or a pipe that asked for data.
"""

import errno
import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, TextIO

from pipelines.errors import InputError
from pipelines.visible import visible


class VisibleStream:
    """A stream of text that shows control characters instead of sending them."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text with its control characters visible.

        Raises:
            InputError: the stream cannot be written.
            SystemExit: the reader of a pipe, such as head, has read enough.
        """
        if text == "":
            return 0  # typer tries whether it may write, and ignores errors
        with self._one_sentence():
            return self.stream.write(visible(text))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after another."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Send what was written. It raises the errors of `write`."""
        with self._one_sentence():
            self.stream.flush()

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What the stream still holds goes nowhere, or it would fail again at the end of the process.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if error.errno == errno.EPIPE:
                sys.exit(1)
            raise InputError(f"The output cannot be written: {error.strerror}.") from None

    @property
    def rich_proxied_file(self) -> Any:
        """The stream for rich, which alone asks for it: rich sends styles, and `flows.console` makes texts visible."""
        import_module("flows.console")
        return getattr(self.stream, "rich_proxied_file", self.stream)

    def __getattr__(self, name: str) -> Any:
        if name in ("stream", "buffer"):  # a writer of bytes would go around `write`
            raise AttributeError(name)
        return getattr(self.stream, name)


class VisibleRecord(logging.LogRecord):
    """A log record whose message and traceback show control characters, in whatever log they end."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """Return the message."""
        return visible(super().getMessage())

    @property
    def exc_text(self) -> str | None:
        """The traceback as text."""
        return self._traceback

    @exc_text.setter
    def exc_text(self, text: str | None) -> None:
        self._traceback = text and visible(text)


def prepare_streams() -> None:
    """Make the standard streams safe for a command: visible, open, and without errors of encoding."""
    # In ascending order, since each gets the lowest free number. Else a database would get the number of a stream.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    show_control_characters()


def show_control_characters() -> None:
    """Put a `VisibleStream` in place of standard output and error, and a `VisibleRecord` in place of log records."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, VisibleStream):
            setattr(sys, name, VisibleStream(stream))
    logging.setLogRecordFactory(VisibleRecord)


def results() -> IO[str]:
    """Return the stream for results: standard output, as it is into a file or a pipe, visible on a terminal."""
    out: Any = sys.stdout
    return out.stream if isinstance(out, VisibleStream) and not out.isatty() else out
