"""Readers of plain text, Markdown and source code."""

from collections.abc import Iterator
from typing import BinaryIO

from pipelines.corpus.readers.encoding import open_text
from pipelines.corpus.readers.records import Bad, ReadOptions, Record


def read_text(file: BinaryIO, options: ReadOptions) -> Iterator[Record | Bad]:
    """Read a text whole, or in the pieces that `split_at` and `max_document` make."""
    text = open_text(file, options)
    held, line = "", 1
    while True:
        block = text.read(1 << 20)
        held += block
        *whole, held = held.split(options.split_at) if options.split_at else [held]
        while len(held) > options.max_document:
            at = cut_place(held, options.max_document)
            whole.append(held[:at])
            held = held[at:]
        if not block:
            whole.append(held)
        for piece in whole:
            yield Record({"text": piece}, f"line {line}")
            line += piece.count("\n") + (options.split_at or "").count("\n")
        if not block:
            return


def cut_place(text: str, limit: int, start: int = 0) -> int:
    """Return where to cut a text: behind the last paragraph, line, sentence or word of a second half.

    It is that of the `limit` characters from `start` on.
    """
    for end in ("\n\n", "\n", ". ", " "):
        at = text.rfind(end, start + limit // 2, start + limit)
        if at >= 0:
            return at + len(end)
    return start + limit
