"""Pages of HTML that need no other file, made from the templates of this folder.

Templates escape every text, so that text of users' data never becomes markup.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from pipelines.errors import InputError
from pipelines.store.files import write_synced
from pipelines.store.modes import give_usual_mode


def render(template: str, **values: Any) -> str:
    """Return a page made from a template and its values."""
    return _environment().get_template(template).render(**values)


def write_page(path: Path, page: str) -> None:
    """Write a page that a person named, with the mode that files of other programs have.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        write_synced(path, page.encode())
        give_usual_mode(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); name a file in a folder that is there."
        ) from None


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.globals.update(numeric=numeric_columns, shown=shown)
    return environment


def numeric_columns(rows: Sequence[Sequence[Any]]) -> set[int]:
    """Return the columns that hold numbers only, which are aligned to the right."""
    columns = enumerate(zip(*rows, strict=True))
    return {i for i, column in columns if all(isinstance(cell, int | float | None) for cell in column)}


def shown(cell: Any) -> str:
    """Return a cell of a table as text."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    return f"{cell:,}" if isinstance(cell, int | float) else str(cell)
