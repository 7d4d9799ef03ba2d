"""The table of formats, and how a file's name and options choose a reader from it.

To add a format:

1. Write a reader: a function from an open file and the options to `Record`s. Yield a `Bad` for a record that cannot be
   read. Raise an `UnreadableError` if the rest of the file cannot be read; all records before it are kept.
2. Add a row to `FORMATS`: the name that `format` may ask for, the file extensions, the reader.
3. Add a test to the tests of readers.

A reader runs in a process with limits, unless its row says that it is bounded by itself (`isolated=False`).

Readers get decompressed files, and options that `look` has completed. Bytes that do not fit a text's
encoding arrive as lone surrogates (as of Python's `surrogateescape`). Ingest counts, rejects or repairs them.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import PurePosixPath
from typing import BinaryIO

from pipelines.corpus.readers.columnar import read_arrow, read_parquet
from pipelines.corpus.readers.compression import COMPRESSIONS, decompress, has_rest
from pipelines.corpus.readers.delimited import read_csv, read_tsv
from pipelines.corpus.readers.json_lines import read_json_lines
from pipelines.corpus.readers.json_values import read_json
from pipelines.corpus.readers.mail import read_mail
from pipelines.corpus.readers.pages import read_html, read_pdf, read_warc
from pipelines.corpus.readers.plain import read_text
from pipelines.corpus.readers.processes import Queue
from pipelines.corpus.readers.records import (
    MAX_REASON,
    SURROGATE,
    Bad,
    Format,
    Found,
    ReadOptions,
    Record,
    Records,
    Rows,
    sentence_of,
    short_line,
)
from pipelines.corpus.readers.samples import read_conversations, read_python_dict
from pipelines.errors import InputError

CODE = "py pyi c h cc cpp hpp cs java kt scala js jsx ts tsx go rs rb php swift lua pl r jl sh sql css toml ini cfg tex"

FORMATS: dict[str, Format] = {
    "text": Format(("txt", "text", "rst", ""), read_text, isolated=False),
    "markdown": Format(("md", "markdown"), read_text, isolated=False),
    "code": Format(tuple(CODE.split()), read_text, isolated=False),
    "html": Format(("html", "htm", "xhtml"), read_html),
    "json": Format(("json",), read_json),
    "jsonl": Format(("jsonl", "ndjson"), read_json_lines, by_line=True, isolated=False),
    "csv": Format(("csv",), read_csv, isolated=False),
    "tsv": Format(("tsv", "tab"), read_tsv, isolated=False),
    "parquet": Format(("parquet", "pq"), read_parquet),
    "arrow": Format(("arrow", "feather", "ipc"), read_arrow),
    "conversations": Format(("yml", "yaml"), read_conversations),
    "pdf": Format(("pdf",), read_pdf),
    "warc": Format(("warc",), read_warc),
    "mail": Format(("eml", "mbox"), read_mail),
    "python-dict": Format((), read_python_dict),
}

EXTENSIONS = {extension: name for name, format_ in FORMATS.items() for extension in format_.extensions}


def formats_of(name: str, options: ReadOptions) -> tuple[str, Format]:
    """Return the compression and the format of a file by the options, or by its name where they say nothing.

    Raises:
        InputError: the options name a format that does not exist.
        KeyError: no reader takes files of this extension, which it names.
    """
    check_format(options)
    compression, format_, extension = split_name(name)
    if not (format_ := options.format or format_):
        raise KeyError(extension)
    return options.compression or compression, FORMATS[format_]


def split_name(name: str) -> tuple[str, str | None, str]:
    """Return the compression and the format that a file's name says, and its extension."""
    suffixes = [suffix.lower().lstrip(".") for suffix in PurePosixPath(name).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else "none"
    extension = suffixes[-1] if suffixes else ""
    return compression, EXTENSIONS.get(extension), extension


def check_format(options: ReadOptions) -> None:
    """Raise an InputError if the options name a format that does not exist."""
    if options.format and options.format not in FORMATS:
        raise InputError(f"There is no format {options.format!r}; known are {', '.join(FORMATS)}.")


def one_by_one(found: Iterable[Record | Records | Bad]) -> Iterator[Record | Bad]:
    """Yield each record by itself."""
    for each in found:
        yield from each if isinstance(each, Records) else [each]


def read_records(
    file: BinaryIO, name: str, options: ReadOptions, first_line: int = 1, queue: Queue | None = None
) -> Iterator[Record | Records | Bad]:
    """Yield the records of an open file. Its name or the options say its format. A broken file ends with a `Bad`.

    A process with limits reads formats whose parser may crash or explode.

    Args:
        first_line: the number of the file's first line, if it is a part of another file that is read by line.
        queue: the files that a reader process is asked for, which may have this file.

    Raises:
        InputError: there is no such format or encoding, or a package that the format needs is not installed.
        ConnectionError, OSError: the machine or the network failed, and not the file.
    """
    try:
        _, format_ = formats_of(name, options)
    except KeyError as unknown:
        yield Bad(f"no reader for .{unknown.args[0]}", "file")
        return
    with nullcontext(queue) if queue else Queue() as queue:
        found = queue.read(file, name, options) if format_.isolated else read_here(file, name, options, first_line)
        for each in found:
            assert not isinstance(each, Rows)  # the process makes records of them
            yield _printable(each) if isinstance(each, Bad) else each


def read_here(file: BinaryIO, name: str, options: ReadOptions, first_line: int = 1) -> Iterator[Found]:
    """Yield what the format's reader finds in this process. A broken file ends with a `Bad`.

    Raises:
        InputError, OSError: see `read_records`.
    """
    compression, format_ = formats_of(name, options)
    last, n_left = "", 0
    try:
        with decompress(file, compression, options) as stream:
            try:
                for found in format_.read(stream, options, *([first_line] if format_.by_line else [])):
                    last = found.last_location if isinstance(found, Records | Rows) else found.location
                    yield found
            except Exception:
                n_left = _left(file, bool(last))
                raise
            if not last:
                yield Bad("no records", "file")
            if has_rest(stream):
                yield Bad("other bytes follow the compressed data; they are left out", f"after {last}")
    except ImportError as error:
        raise InputError(f"{name} needs the package {error.name}; pip install 'tokenmill[formats]'.") from None
    except Exception as error:  # of whichever parser, about bytes that nobody foresaw
        yield Bad(sentence_of(error), f"after {last}" if last else "file", lost_bytes=n_left)


def _left(file: BinaryIO, has_begun: bool) -> int:
    """Return how many bytes of a file remain, as far as it says that."""
    with suppress(OSError, ValueError):
        at = file.tell() if has_begun else 0
        return max(0, file.seek(0, io.SEEK_END) - at)
    return 0


def _printable(bad: Bad) -> Bad:
    """Return a `Bad` that can be written into a table: its text is for people and need not be repaired."""
    return bad._replace(
        reason=short_line(bad.reason, MAX_REASON),
        location=short_line(bad.location, MAX_REASON),
        text=SURROGATE.sub("\ufffd", bad.text),
    )
