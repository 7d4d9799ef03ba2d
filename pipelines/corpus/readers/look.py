"""A look at a file's first bytes, which says how to read what no key says.

Each guess is a value that a key could have given. Readers get options in which nothing is left to guess.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipelines.corpus.readers.formats import one_by_one, read_records
from pipelines.corpus.readers.records import Bad, ReadOptions, Record


@dataclass(frozen=True)
class Guess:
    """A value that no key gave. The key `key` overrides it."""

    key: str
    value: str
    is_doubtful: bool = False


@dataclass(frozen=True)
class Look:
    """The complete options of a file, and what of them was guessed."""

    options: ReadOptions
    guesses: tuple[Guess, ...] = ()


def look(file: BinaryIO, name: str, options: ReadOptions) -> Look:
    """Look at the first bytes of an open seekable file, which stays at its start.

    Raises:
        InputError: there is no such format or encoding.
        UnreadableError: the file is not of a kind that can be read.
    """
    return Look(options)


def read_file(file: BinaryIO, name: str, options: ReadOptions) -> Iterator[Record | Bad]:
    """Yield the records of an open file one by one, as `read_records` reads them."""
    return one_by_one(read_records(file, name, look(file, name, options).options))
