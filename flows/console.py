"""The terminal through rich: lines and warnings on standard error, tables on standard output."""

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


def say(sentence: str, style: str = "") -> None:
    """Print a sentence."""
    console.print(Text(one_line(without_secrets(sentence)), style), soft_wrap=True)


def warn(sentence: str) -> None:
    """Print a warning."""
    console.print(Text.assemble(("!", "yellow"), " ", one_line(without_secrets(sentence))), soft_wrap=True)


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
        column.min_width = max(size.maximum if column.no_wrap else size.minimum for size in sizes)
    columns = sum(column.min_width or 0 for column in table.columns)
    console.width = max(console.width, columns + 3 * len(table.columns))
    console.print(table)


def standard_output() -> Console:
    """Return a console for tables on standard output. A text in them is no markup."""
    return Console(markup=False, emoji=False)
