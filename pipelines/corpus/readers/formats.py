"""Readers: a file of some format becomes a stream of records.

`FORMATS` is the table; a new format is a function from an open file and the options to records, and a line in it.
A reader yields what it can: a `Bad` stands for a record that could not be read, and an exception ends the file with
all that came before kept. Compression is peeled off first, by the name's last suffix. Bytes that do not fit a text's
encoding arrive as lone surrogates (as of Python's `surrogateescape`), for the caller to count, reject or repair.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from pipelines.corpus.readers.columnar import read_arrow, read_parquet
from pipelines.corpus.readers.compression import COMPRESSIONS, decompress
from pipelines.corpus.readers.delimited import read_csv, read_tsv
from pipelines.corpus.readers.json_lines import read_json, read_json_lines
from pipelines.corpus.readers.pages import read_html, read_pdf, read_warc
from pipelines.corpus.readers.plain import read_text
from pipelines.corpus.readers.records import SURROGATE, Bad, Format, ReadOptions, Record, Records
from pipelines.corpus.readers.samples import read_conversations, read_python_dict
from pipelines.errors import InputError


def read_file(file: BinaryIO, name: str, options: ReadOptions, first_line: int = 1) -> Iterator[Record | Bad]:
    """The records of an open file, one by one; the rest is said of `read_records`."""
    return one_by_one(read_records(file, name, options, first_line))


def one_by_one(found: Iterable[Record | Records | Bad]) -> Iterator[Record | Bad]:
    """Records, consecutive ones taken apart."""
    for each in found:
        if isinstance(each, Records):
            yield from each
        else:
            yield each


def read_records(
    file: BinaryIO, name: str, options: ReadOptions, first_line: int = 1
) -> Iterator[Record | Records | Bad]:
    """The records of an open file, whose name or options say its format. Ends with a `Bad` if the file is broken.

    Args:
        first_line: the number of the file's first line, where it is a part of another that is read by line.

    Raises:
        InputError: there is no such format or encoding, or a package that the format needs is not installed.
        ConnectionError, OSError: it could not be read to its end, for which the file is not to blame.
    """
    try:
        compression, format_ = formats_of(name, options)
    except KeyError as unknown:
        yield Bad(f"no reader for .{unknown.args[0]}", "file")
        return
    last = "start"
    try:
        with decompress(file, compression) as stream:
            for record in format_.read(stream, options, *([first_line] if format_.by_line else [])):
                last = record.last_location if isinstance(record, Records) else record.location
                yield _shown(record) if isinstance(record, Bad) else record
    except ImportError as error:
        raise InputError(f"{name} needs the package {error.name}; pip install 'tokenmill[formats]'.") from None
    except (InputError, ConnectionError, MemoryError):
        raise
    except Exception as error:  # of whichever parser, about bytes that nobody foresaw
        if isinstance(error, OSError) and error.errno:
            raise  # the machine's fault and not the file's: a full disk, a broken one
        sentence = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        sentence = re.sub(" at 0x[0-9a-f]+", "", sentence)  # which is another one each time
        yield _shown(Bad(sentence, "file" if last == "start" else f"after {last}"))


def _shown(bad: Bad) -> Bad:
    """What can be written into a table: a `Bad` tells of text, and is none that could be repaired."""
    return Bad(*(SURROGATE.sub("\ufffd", each) for each in bad))


def formats_of(name: str, options: ReadOptions) -> tuple[str | None, Format]:
    """Compression and format of a file.

    Raises:
        InputError: the options name a format that does not exist.
        KeyError: no reader takes files of this extension, which it names.
    """
    suffixes = [suffix.lower().lstrip(".") for suffix in PurePosixPath(name).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else None
    if options.format:
        if options.format not in FORMATS:
            raise InputError(f"There is no format {options.format!r}; known are {', '.join(FORMATS)}.")
        return compression, FORMATS[options.format]
    return compression, FORMATS[EXTENSIONS[suffixes[-1] if suffixes else ""]]


# The table

CODE = "py pyi c h cc cpp hpp cs java kt scala js jsx ts tsx go rs rb php swift lua pl r jl sh sql css toml ini cfg tex"


FORMATS: dict[str, Format] = {
    "text": Format(("txt", "text", "rst", ""), read_text),
    "markdown": Format(("md", "markdown"), read_text),
    "code": Format(tuple(CODE.split()), read_text),
    "html": Format(("html", "htm", "xhtml"), read_html),
    "json": Format(("json",), read_json),
    "jsonl": Format(("jsonl", "ndjson"), read_json_lines, by_line=True),
    "csv": Format(("csv",), read_csv),
    "tsv": Format(("tsv", "tab"), read_tsv),
    "parquet": Format(("parquet", "pq"), read_parquet),
    "arrow": Format(("arrow", "feather", "ipc"), read_arrow),
    "conversations": Format(("yml", "yaml"), read_conversations),
    "pdf": Format(("pdf",), read_pdf),
    "warc": Format(("warc",), read_warc),
    "python-dict": Format((), read_python_dict),
}


EXTENSIONS = {extension: name for name, format_ in FORMATS.items() for extension in format_.extensions}
