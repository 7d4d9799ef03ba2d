"""The terminal through rich: lines and warnings on standard error, tables on standard output.

During a flow run, Prefect's log receives the same lines (see `flows.orchestration.run_log`).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.text
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pipelines.addresses import without_secrets
from pipelines.visible import one_line, visible

# Rich removes a few control characters from every text and lets ESC pass. It shows all of them with this function,
# in the consoles of typer and Prefect too.
vars(rich.text)["strip_control_codes"] = visible

console = Console(stderr=True)

Log = Callable[[int, str], bool]
"""Takes the level and the text of a line; returns whether it has printed the line too."""

_logs: list[Log] = []


def say(sentence: str, style: str = "", fit: bool = False) -> None:
    """Print a sentence.

    Args:
        sentence: one line.
        style: of the text on a terminal.
        fit: cut the line where the terminal ends, instead of breaking it.
    """
    line = one_line(without_secrets(sentence))
    if not log(logging.INFO, line):
        cut = fit and console.is_terminal
        console.print(Text(line, style), soft_wrap=not cut, no_wrap=cut, overflow="ellipsis" if cut else None)


def warn(sentence: str, in_log: bool = True) -> None:
    """Print a warning.

    Args:
        sentence: one line.
        in_log: whether it enters the run's log too. A handler of signals may not write there.
    """
    line = one_line(without_secrets(sentence))
    if not (in_log and log(logging.WARNING, line)):
        console.print(Text.assemble(("!", "yellow"), " ", line), soft_wrap=True)


def log(level: int, sentence: str) -> bool:
    """Write a line into the logs that are attached, and on the terminal only if such a log prints its lines.

    Returns:
        Whether the line was printed.
    """
    printed = [write(level, one_line(without_secrets(sentence))) for write in _logs]
    return any(printed)


@contextmanager
def logging_lines(write: Log) -> Iterator[None]:
    """Send every line to a log as well."""
    _logs.append(write)
    try:
        yield
    finally:
        _logs.remove(write)


def print_unbroken(table: Table, console: Console | None = None) -> None:
    """Print a table and break none of its words, such as paths, which people copy.

    A narrow terminal then wraps lines by itself, and joins them when they are copied. Columns that fold are for reading
    only, so their words may be broken.
    """
    console = console or standard_output()
    wide = console.options.update(max_width=1000)

    for column in table.columns:
        sizes = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
        if column.overflow == "fold":
            column.min_width = min(max(size.maximum for size in sizes), 12)
            continue
        words = max(size.maximum if column.no_wrap else size.minimum for size in sizes)
        column.min_width = max(words, column.min_width or 0)
    columns = sum(column.min_width or 0 for column in table.columns)
    console.width = max(console.width, columns + 3 * len(table.columns))
    console.print(table)


def standard_output() -> Console:
    """Return a console for tables on standard output. A text in them is no markup."""
    return Console(markup=False, emoji=False)
