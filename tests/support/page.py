"""The Python blocks of a page, run in order and held against the output that the page shows below each.

It needs nothing but Python, so that it also runs in an environment without our test tools:

    python tests/support/page.py docs/python.md
"""

import asyncio
import contextlib
import io
import re
import sys
from collections.abc import Container
from pathlib import Path

BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```(text)?\n(.*?)```)?", re.DOTALL)
PYTHON = Path(__file__).parents[2] / "docs" / "python.md"
OTHER_TRAINERS = {"accelerate", "lightning", "transformers"}
"""Packages that a page shows ours with, and that need not be installed: their blocks are left out."""


def blocks(page: Path) -> list[tuple[str, bool, str]]:
    """Return (code, whether its output differs from machine to machine, output) of each block."""
    return [(code, kind == "text", output) for code, kind, output in BLOCK.findall(page.read_text())]


def run_page(page: Path, leave_out: Container[str] = ()) -> list[str]:
    """Run the blocks of a page except some, and return those that ran.

    Raises:
        AssertionError: a block prints something else than the page shows.
    """
    names: dict[str, object] = {"__name__": "__page__"}
    ran = []
    for code, differs, output in blocks(page):
        if code in leave_out:
            continue
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(code, str(page), "exec"), names)  # noqa: S102 - our own page
        except ModuleNotFoundError as missing:
            if missing.name in OTHER_TRAINERS:
                continue
            raise
        lines, shown = [line.rstrip() for line in printed.getvalue().splitlines()], output.splitlines()
        assert bool(lines) == bool(shown) if differs else lines == shown, (
            f"{code}\nprints\n{printed.getvalue()}\nand the page shows\n{output}"
        )
        ran.append(code)
    return ran


async def run_as_notebook(page: Path) -> list[str]:
    """Run a page in a thread with an event loop, as a notebook runs its cells."""
    return run_page(page)


if __name__ == "__main__":
    print(len(asyncio.run(run_as_notebook(Path(sys.argv[1]).resolve()))))
