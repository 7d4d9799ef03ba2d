"""`tokenmill sql`: one query, or a shell, over the catalog of everything that was published."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.commands.answer import WRITERS, answer
from flows.home import Home
from pipelines.catalog.catalog import connect
from pipelines.errors import InputError


def run_sql(
    query: str | None,
    file: Path | None = None,
    format: str | None = None,
    datasets: Sequence[str] = (),
    home: Home | None = None,
    output: Path | None = None,
    external_access: bool = False,
) -> None:
    """Answer a query on standard output; without one, read it from standard input or open a shell.

    Args:
        query: one or more statements, or None.
        file: read the statements from here instead.
        format: `table`, `csv`, `json` (an array of objects) or `parquet`; by default what the output's name ends in, or
            a table.
        datasets: versions to pin, such as `tokens@0123`.
        home: whose data and runs; by default, those of the environment's.
        output: write the result here instead of on standard output.
        external_access: let queries read and write other files.

    Raises:
        InputError: the query is wrong, or would write or read another file.
    """
    if file:
        try:
            query = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"The query file {file} cannot be read ({getattr(error, 'strerror', 'not UTF-8')})."
            ) from None
    elif query is None and not sys.stdin.isatty():
        query = sys.stdin.read()
    ending = output.suffix[1:] if output else ""
    format = format or (ending if ending in WRITERS else "table")
    home = home or Home.from_environment()
    connection = connect(home.store, home.mlflow_uri, datasets, external_access=external_access)
    try:
        if query is None:
            from flows.commands.sql_shell import Shell  # a terminal's worth of imports

            Shell(connection, home.path, format).run()
        else:
            answer(connection, query, format, output, external_access)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        connection.close()
