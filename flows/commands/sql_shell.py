"""The shell of `tokenmill sql`: history, completion, statements over several lines, and a few commands of its own."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import duckdb
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from flows.commands.answer import answer
from pipelines.errors import InputError

HELP = """
Statements end with a semicolon and may go over several lines; Tab completes, Ctrl-C stops a query, Ctrl-D leaves.

  .schema [VIEW]   the views, or one view's columns
  .functions       the functions that tokenmill adds
  .format NAME     how results are written: table, csv, json
  .output FILE     write the next result to a file: .csv, .json or .parquet
  .timing          show how long each query takes, or stop showing it
  .help            this page
  .quit            leave

Try:
  select dataset, split, count(*) documents, sum(n_tokens) tokens from tokens group by all;
  select text, count(*) n from tokens_flat group by text order by n desc limit 20;
  select decode(tokens[:20]) from tokens limit 5;
  select * from metrics where latest;
"""


class Shell:
    """Reads statements from a terminal and answers them until its user leaves."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, home: Path, format: str = "table") -> None:
        self.connection = connection
        self.format = "table" if format == "parquet" else format
        self.timing = True
        self.output: Path | None = None  # where the next result goes
        history = home / ".tokenmill" / "sql_history"
        history.parent.mkdir(parents=True, exist_ok=True)
        self.session: PromptSession[str] = PromptSession(
            history=FileHistory(str(history)),
            completer=Names(connection),
            complete_while_typing=False,
            lexer=PygmentsLexer(SqlLexer),
            multiline=True,
            key_bindings=_enter_ends_a_statement(),
            prompt_continuation=lambda width, line, wrapped: "... ".rjust(width),
        )

    def run(self) -> None:
        datasets = self.connection.execute("SELECT count(*) FROM datasets").fetchall()[0][0]
        print(f"{datasets} published datasets. `.help` shows what to type, `.quit` leaves.")
        while True:
            try:
                line = self.session.prompt("sql> ").strip()
            except KeyboardInterrupt:
                continue  # the line is thrown away, the shell is not
            except EOFError:
                return
            if line in (".quit", ".exit"):
                return
            if line:
                self.answer(line)

    def answer(self, line: str) -> None:
        """Carry out a command or answer a statement; whatever is wrong is said, and the shell goes on."""
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
        if name == ".help":
            out.write(HELP)
        elif name == ".schema" and not arguments:
            answer(self.connection, "FROM _views", out=out)
        elif name == ".schema":
            view = arguments[0].replace('"', '""')
            answer(self.connection, f'SELECT column_name, column_type FROM (DESCRIBE "{view}")', out=out)  # noqa: S608
        elif name == ".functions":
            answer(self.connection, "SELECT signature, comment FROM _functions", out=out)
        elif name == ".format" and arguments and arguments[0] in ("table", "csv", "json"):
            self.format = arguments[0]
        elif name == ".output" and arguments and arguments[0].endswith((".csv", ".json", ".parquet")):
            self.output = Path(arguments[0])
        elif name == ".timing":
            self.timing = not self.timing
        else:
            raise InputError(f"There is no command {' '.join((name, *arguments))!r}; .help lists what there is.")


def show(text: str) -> None:
    """Print a text, through a pager if it is longer than the terminal."""
    rows = shutil.get_terminal_size((120, 24)).lines
    pager = shutil.which(os.environ.get("PAGER", "less"))
    if sys.stdout.isatty() and pager and text.count("\n") >= rows:
        environment = {"LESS": "-SRFX", **os.environ}
        subprocess.run([pager], input=text, text=True, env=environment, check=False)  # noqa: S603 - the user's own pager
    else:
        print(text, end="" if text.endswith("\n") else "\n")


class Names(Completer):
    """Completes views, columns, functions and keywords; what comes from tokenmill first."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        found = connection.execute(
            """SELECT name, kind FROM (
                SELECT name, 'view' AS kind, 0 AS rank FROM _views
                UNION SELECT column_name, 'column', 1 FROM duckdb_columns() JOIN _views v ON v.name = table_name
                UNION SELECT name, 'function', 2 FROM _functions
                UNION SELECT keyword_name, 'keyword', 3 FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'
                UNION SELECT function_name, 'function', 4 FROM duckdb_functions() WHERE internal)
            WHERE name SIMILAR TO '[a-zA-Z][a-zA-Z0-9_]*' ORDER BY rank, name"""
        ).fetchall()
        self.names = list(dict(reversed(found)).items())[::-1]

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        word = document.get_word_before_cursor()
        if not word.strip():
            return
        for name, kind in self.names:
            if name.lower().startswith(word.lower()):
                yield Completion(name, start_position=-len(word), display_meta=kind)


def _enter_ends_a_statement() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        text = event.current_buffer.text.strip()
        if not text or text.startswith(".") or text.endswith(";"):
            event.current_buffer.validate_and_handle()
        else:
            event.current_buffer.insert_text("\n")

    return bindings
