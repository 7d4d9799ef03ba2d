"""The terminal through rich: lines and warnings on standard error, tables on standard output."""

import rich.text
from rich.console import Console
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


def standard_output() -> Console:
    """Return a console for tables on standard output. A text in them is no markup."""
    return Console(markup=False, emoji=False)
