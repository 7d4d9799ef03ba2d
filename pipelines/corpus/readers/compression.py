"""Decompression of single files, with a limit on what a small file may become."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pipelines.corpus.readers.records import BUFFER, ReadOptions, Stream, UnreadableError

BOMB_RATIO, BOMB_BYTES = 250, 256 << 20  # no text that somebody wrote unpacks to both
DICTIONARY = 256 << 20  # bytes of memory that an archive may ask for; zstd's own limit is half of it
COMPRESSIONS: dict[str, Callable[[BinaryIO], Any]] = {
    "gz": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    "bz2": lambda file: _Streams(file, bz2.BZ2Decompressor),
    "xz": lambda file: _Streams(file, partial(lzma.LZMADecompressor, memlimit=DICTIONARY)),
    "zst": lambda file: pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"),
}


def decompress(file: BinaryIO, compression: str | None, options: ReadOptions) -> BinaryIO:
    """Return a file's decompressed content, or the file itself if there is no compression."""
    if compression is None:
        return file
    return cast(BinaryIO, io.BufferedReader(_Unpacked(COMPRESSIONS[compression](file), file, options), BUFFER))


def refuse_bomb(unpacked: int, packed: int, options: ReadOptions, floor: int = BOMB_BYTES) -> None:
    """Raise an UnreadableError if a file unpacks to more than the floor and to far more than its size."""
    ratio = options.limits * BOMB_RATIO
    if unpacked > options.limits * floor and unpacked > ratio * max(packed, 1):
        raise UnreadableError(f"a decompression bomb: unpacks to more than {ratio:g} times its size")


class _Unpacked(Stream):
    """A decompressed stream that refuses to grow without end out of a few bytes."""

    def __init__(self, stream: Any, packed: BinaryIO, options: ReadOptions) -> None:
        super().__init__(stream.read1)
        self._packed, self._bytes, self._options = packed, 0, options
        self._break: Exception | None = None

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer. At a break in the file, return what came before it first."""
        filled = 0
        try:
            if self._break:
                raise self._break
            while filled < len(buffer) and (n_bytes := super().readinto(buffer[filled:])):
                filled += n_bytes
        except Exception as error:
            if not filled:
                raise
            self._break = error
        self._bytes += filled
        refuse_bomb(self._bytes, self._packed.tell(), self._options)
        return filled


class _Streams:
    """Packed streams, one behind the other. Python's own readers ignore a broken stream behind a whole one."""

    def __init__(self, file: BinaryIO, decompressor: Callable[[], Any]) -> None:
        self._file, self._new, self._stream = file, decompressor, decompressor()

    def read1(self, size: int) -> bytes:
        """Return some bytes, and none at the end."""
        while True:
            packed = b""
            if self._stream.eof:
                packed = self._stream.unused_data.lstrip(b"\0")  # zeros fill up a block or a tape
                while not packed:
                    if not (packed := self._file.read(BUFFER)):
                        return b""
                    packed = packed.lstrip(b"\0")
                self._stream = self._new()
            elif self._stream.needs_input and not (packed := self._file.read(BUFFER)):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            if block := self._stream.decompress(packed, size):
                return cast(bytes, block)
