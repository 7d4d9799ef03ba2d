"""The terminal: lines and warnings on standard error."""

from rich.console import Console
from rich.text import Text

from pipelines.addresses import without_secrets

console = Console(stderr=True)


def say(sentence: str, style: str = "") -> None:
    """Print a sentence."""
    console.print(Text(without_secrets(sentence), style), soft_wrap=True)


def warn(sentence: str) -> None:
    """Print a warning."""
    console.print(Text.assemble(("!", "yellow"), " ", without_secrets(sentence)), soft_wrap=True)
