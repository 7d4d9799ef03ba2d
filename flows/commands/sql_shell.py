"""The shell of `tokenmill sql`: history, completion, statements over several lines, and commands of its own."""

from __future__ import annotations  # DuckDB complains at exit about types that annotations keep

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import duckdb
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completion, WordCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from flows.commands.answer import answer
from flows.commands.prompt import typed_lines
from flows.commands.text_input import input_text
from pipelines.errors import InputError
from pipelines.visible import visible

HELP = """
Statements end with a semicolon and may go over several lines; Tab completes, Ctrl-C stops a query, Ctrl-D leaves.

  .tables          the views
  .schema [VIEW]   the views, or one view's columns
  .functions       the functions that tokenmill adds
  .mode NAME       how results are written: table, csv, json
  .output FILE     write the next result to a file: .csv, .json or .parquet
  .read FILE       answer the statements of a file
  .timing          show how long each query takes, or stop showing it
  .help            this page
  .quit            leave

Try:
  select dataset, split, count(*) documents, sum(n_tokens) tokens from tokens group by all;
  select dataset, text, count(*) n from tokens_flat group by all order by n desc limit 20;
  select dataset, decode(tokens[:20], dataset) from tokens limit 5;
  select * from metrics where latest;
"""


class Shell:
    """A shell that reads statements from a terminal and answers them until its user leaves."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, home: Path, format: str = "table") -> None:
        self.connection, self.home = connection, home
        self.format = "table" if format == "parquet" else format
        self.timing = True
        self.output: Path | None = None  # where the next result goes

    def run(self) -> None:
        """Answer what the user types until they leave."""
        datasets = self.connection.execute("SELECT count(*) FROM datasets").fetchall()[0][0]
        print(f"{datasets} published datasets. `.help` shows what to type, `.quit` leaves.")
        typed = typed_lines(
            self.home,
            "sql",
            "sql> ",
            completer=Names(self.connection),
            lexer=PygmentsLexer(SqlLexer),
            multiline=Condition(_is_unfinished),
            prompt_continuation=lambda width, line, wrapped: "... ".rjust(width),
        )
        for line in map(str.strip, typed):
            if line in (".quit", ".exit"):
                return
            if line:
                self.answer(line)

    def answer(self, line: str) -> None:
        """Run a command or a statement and show the result, or the sentence of an error."""
        started = time.perf_counter()
        out = io.StringIO()
        try:
            if line.startswith("."):
                self.command(*line.rstrip(";").split(), out=out)
            elif self.output:
                path, self.output = self.output, None
                answer(self.connection, line, path.suffix[1:], out=path)
                print(f"Written to {path}.", file=out)
            else:
                answer(self.connection, line, self.format, out=out)
                if self.timing:
                    print(f"{time.perf_counter() - started:.3f} s", file=out)
        except InputError as error:
            print(error, file=out)
        except KeyboardInterrupt:
            print("Stopped.", file=out)
        show(out.getvalue())

    def command(self, name: str, *arguments: str, out: io.StringIO) -> None:
        """Run a command of the shell.

        Raises:
            InputError: there is no such command.
        """
        if name == ".help":
            out.write(HELP)
        elif name in (".tables", ".schema") and not arguments:
            answer(self.connection, "FROM tokenmill.views", out=out)
        elif name == ".schema":
            view = arguments[0].replace('"', '""')
            answer(self.connection, f'SELECT column_name, column_type FROM (DESCRIBE "{view}")', out=out)  # noqa: S608 - the name is quoted
        elif name == ".functions":
            answer(self.connection, "SELECT signature, comment FROM tokenmill.functions", out=out)
        elif name in (".mode", ".format") and arguments and arguments[0] in ("table", "csv", "json"):
            self.format = arguments[0]
        elif name == ".output" and arguments and arguments[0].endswith((".csv", ".json", ".parquet")):
            self.output = Path(arguments[0])
        elif name == ".read" and arguments:
            answer(self.connection, input_text(Path(arguments[0])), self.format, out=out)
        elif name == ".timing":
            self.timing = not self.timing
        else:
            raise InputError(f"There is no command {' '.join((name, *arguments))!r}; .help lists what there is.")


def show(text: str) -> None:
    """Print a text with its control characters visible. Use a pager if it is longer than the terminal."""
    text = visible(text)
    rows = shutil.get_terminal_size((120, 24)).lines
    pager = shutil.which(os.environ.get("PAGER", "less"))
    if sys.stdout.isatty() and pager and text.count("\n") >= rows:
        environment = {"LESS": "-SRFX", **os.environ}
        subprocess.run([pager], input=text, text=True, env=environment, check=False)  # noqa: S603 - the user's own pager
    else:
        print(text, end="" if text.endswith("\n") else "\n")


class Names(WordCompleter):
    """A completer of views, columns, functions and keywords. Names of tokenmill come first."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        found = connection.execute(
            """SELECT name, kind FROM (
                SELECT name, 'view' AS kind, 0 AS rank FROM tokenmill.views
                UNION SELECT column_name, 'column', 1 FROM duckdb_columns()
                    WHERE table_name IN (SELECT name FROM tokenmill.views)
                UNION SELECT name, 'function', 2 FROM tokenmill.functions
                UNION SELECT keyword_name, 'keyword', 3 FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'
                UNION SELECT function_name, 'function', 4 FROM duckdb_functions() WHERE internal)
            WHERE name SIMILAR TO '[a-zA-Z][a-zA-Z0-9_]*' ORDER BY rank, name"""
        ).fetchall()
        kinds = dict(reversed(found))  # a name's first kind wins
        super().__init__(list(kinds)[::-1], ignore_case=True, meta_dict=kinds)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield the names that begin with the word before the cursor."""
        if document.get_word_before_cursor().strip():
            yield from super().get_completions(document, complete_event)


def _is_unfinished() -> bool:
    """Return whether Enter continues the statement on another line. A command or a semicolon ends it."""
    text = get_app().current_buffer.text.strip()
    return bool(text) and not text.startswith(".") and not text.endswith(";")
