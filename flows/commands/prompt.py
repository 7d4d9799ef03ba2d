"""Lines that a person types at a prompt, for the SQL shell and the chat."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory
from prompt_toolkit.output import create_output

from flows.terminal import VisibleStream


def typed_lines(home: Path, name: str, prompt: str, **options: Any) -> Iterator[str]:
    """Yield the lines that a person types, with a history in the home. Ctrl-C drops a line, Ctrl-D ends.

    Args:
        name: names the history's file: `NAME_history`.
        options: more arguments of prompt_toolkit's `PromptSession`.
    """
    file = home / ".tokenmill" / f"{name}_history"
    file.parent.mkdir(parents=True, exist_ok=True)
    history = FileHistory(str(file))
    if isinstance(sys.stdout, VisibleStream):  # the editor moves the cursor, and shows control characters as ^[ itself
        options["output"] = create_output(sys.stdout.stream)
    session: PromptSession[str] = PromptSession(history=history, complete_while_typing=False, **options)
    while True:
        try:
            yield session.prompt(prompt)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
