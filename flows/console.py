"""The terminal: lines and warnings on standard error."""

from rich.console import Console
from rich.text import Text

console = Console(stderr=True)


def say(sentence: str, style: str = "") -> None:
    """Print a sentence."""
    console.print(Text(sentence, style), soft_wrap=True)


def warn(sentence: str) -> None:
    """Print a warning."""
    console.print(Text.assemble(("!", "yellow"), " ", sentence), soft_wrap=True)
