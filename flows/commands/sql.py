"""`tokenmill sql`: one query, or a shell, over the catalog of everything that was published."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from flows.commands.options import Pins, current_home
from flows.commands.text_input import input_text


def sql(
    query: Annotated[str | None, Argument(help="The query; without one, a shell opens.")] = None,
    command: Annotated[str | None, Option("-c", metavar="QUERY", help="The query, as an option.")] = None,
    file: Annotated[Path | None, Option(help="Read the query from a file.")] = None,
    format: Annotated[
        Literal["table", "csv", "json", "parquet"] | None,
        Option(metavar="FORMAT", help="table, csv, json or parquet; by default the output's file ending, or a table."),
    ] = None,
    dataset: Pins = [],
    output: Annotated[Path | None, Option(help="Write the result to this file.")] = None,
    external_access: Annotated[
        bool, Option("--external-access", help="Let queries read and write other files.")
    ] = False,
) -> None:
    """Ask DuckDB about every dataset: documents, tokens, vocabulary, samples, runs, metrics and more.

    Example: tokenmill sql "select split, count(*) from documents group by split"
    """
    from flows.commands.answer import WRITERS, answer
    from pipelines.catalog.catalog import connect

    query = input_text(file) if file else query if query is not None else command
    if query is None and not sys.stdin.isatty():
        query = input_text()
    ending = output.suffix[1:] if output else ""
    form = format or (ending if ending in WRITERS else "table")
    home = current_home()
    connection = connect(home.store, home.mlflow_uri, dataset, external_access=external_access)
    try:
        if query is None:
            from flows.commands.sql_shell import Shell  # needs many imports for its terminal

            Shell(connection, home.path, form).run()
        else:
            answer(connection, query, form, output, external_access)
    finally:
        connection.close()
