"""Text that a user hands to a command: in a file, or through standard input. Its encoding is detected."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from flows.environment import expand_user
from pipelines.errors import InputError

if TYPE_CHECKING:
    from pipelines.corpus.readers.records import ReadOptions

SOME = 20  # lines that are looked at, and columns that a sentence names


def input_lines(file: Path | None = None) -> Iterator[str]:
    """Yield the lines of a file, by default of standard input, without their ends.

    Bytes outside the encoding become U+FFFD. A guessed encoding is reported on standard error.

    Raises:
        InputError: the file cannot be read, or it is not text.
    """
    from pipelines.corpus.readers.encoding import open_text  # takes long to import
    from pipelines.corpus.readers.records import SURROGATE, UnreadableError

    stdin = getattr(sys.stdin, "buffer", None)
    if not file and (stdin is None or sys.stdin.isatty()):
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    try:
        opened: Any = expand_user(file).open("rb") if file else nullcontext(stdin)
        with opened as stream:
            text = open_text(stream, _options(stream, file))
            for line in text:
                yield SURROGATE.sub("\ufffd", line.removesuffix("\n"))
            text.detach()  # or standard input would be closed with it
    except IsADirectoryError:
        raise InputError(f"{file} is a folder; name a file.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    except UnreadableError as error:
        raise InputError(f"{file or 'Standard input'} cannot be read: {error}.") from None


def input_texts(file: Path | None = None, column: str | None = None) -> Iterator[str]:
    """Return the texts of a table's column, or the lines of any other file or of standard input.

    Without a column, the only one that holds text is read, and standard error says so.

    Raises:
        InputError: the file cannot be read, or it is a table and the column is unknown or unclear.
    """
    from pipelines.starter.survey import TABLES, first_records

    if not file:
        if column:
            raise InputError("--column names a column of a --file; standard input is read line by line.")
        return input_lines()
    file = expand_user(file)
    if not file.is_file():
        return input_lines(file)  # whose error speaks of a file, not of a source
    options, records = first_records(str(file))
    if column and options.format not in TABLES:
        options, records = first_records(str(file), "tsv")
    if options.format in TABLES and records:
        return _cells(file, _column(file, records, column), options)
    lines = str(records[0].get("text")).splitlines()[:SOME] if records else []
    if lines and all("\t" in line for line in lines):
        typer.echo(f"{file} is read line by line, tabs included; --column reads it as a table", err=True)
    return input_lines(file)


def _column(file: Path, records: Sequence[dict[str, Any]], column: str | None) -> str:
    """Return the column of the texts: the one that is named, else the only one that holds text."""
    from pipelines.starter.columns import check_column, fields_of, texts_among

    names = fields_of(records)
    if column:
        check_column(column, names, str(file))
        return column
    texts = names if len(names) == 1 else texts_among(records)
    if len(texts) != 1:
        raise InputError(f"{file} has the columns {_listed(names)}; name that of the texts with --column.")
    typer.echo(f"{file}: the texts are in the column {texts[0]!r}; --column names another", err=True)
    return texts[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SOME]) + (", ..." if len(names) > SOME else "")


def _cells(file: Path, column: str, options: ReadOptions) -> Iterator[str]:
    """Yield the texts of a column. What cannot be read is left out, with a sentence."""
    from pipelines.corpus.cells import text_of
    from pipelines.corpus.readers.look import read_file
    from pipelines.corpus.readers.records import SURROGATE, Bad

    with file.open("rb") as stream:
        for record in read_file(stream, file.name, options):
            if isinstance(record, Bad):
                typer.echo(f"{file} {record.location} is left out: {record.sentence}", err=True)
                continue
            value = record.fields.get(column)
            try:
                yield text_of(SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value, column)
            except ValueError as error:
                typer.echo(f"{file} {record.location} is left out: {error}", err=True)


def input_text(file: Path | None = None) -> str:
    """Return the text of a file, by default of standard input, as `input_lines` reads it."""
    return "\n".join(input_lines(file))


def _options(stream: BinaryIO, file: Path | None) -> ReadOptions:
    """Return the options of a stream. A pipe is read from its first bytes on, a file can be looked at first."""
    from pipelines.corpus.readers.look import look
    from pipelines.corpus.readers.records import ReadOptions

    options = ReadOptions(format="text", compression="none")
    if not file or not stream.seekable():
        return options
    looked = look(stream, file.name, options)
    for guess in looked.guesses:
        doubt = ", a doubtful guess" if guess.is_doubtful else ", guessed"
        typer.echo(f"{file} is read as {guess.value}{doubt}", err=True)
    return looked.options
