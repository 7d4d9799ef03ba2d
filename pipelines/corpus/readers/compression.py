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

WINDOW = 128 << 20  # bytes of zstd's own limit
BOMB_RATIO, BOMB_BYTES = 250, 256 << 20  # no text that somebody wrote unpacks to both
DICTIONARY = 256 << 20  # bytes of memory that an archive may ask for; zstd's own limit is half of it
MAGIC = {
    b"\x1f\x8b": "gz",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zst",
    **{bytes([0x50 | n, 0x2A, 0x4D, 0x18]): "zst" for n in range(16)},  # a frame to skip
    **{b"BZh%d" % n + block: "bz2" for n in range(1, 10) for block in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")},
}
MAGIC_BYTES = 10
COMPRESSIONS: dict[str, Callable[[BinaryIO], Any]] = {
    "gz": lambda file: _Gzip(file),
    "bz2": lambda file: _Streams(file, bz2.BZ2Decompressor),
    "xz": lambda file: _Streams(file, partial(lzma.LZMADecompressor, memlimit=DICTIONARY)),
    "zst": lambda file: _Zstd(file),
}


def decompress(file: BinaryIO, compression: str, options: ReadOptions) -> BinaryIO:
    """Return a file's decompressed content, or the file itself if its compression is `none`."""
    if compression == "none":
        return file
    return cast(BinaryIO, io.BufferedReader(_Unpacked(COMPRESSIONS[compression](file), file, options), BUFFER))


def compression_of(head: bytes) -> str | None:
    """Return the compression of a file by its first bytes."""
    return next((name for magic, name in MAGIC.items() if head.startswith(magic)), None)


def has_rest(stream: BinaryIO) -> bool:
    """Return whether a decompressed file has other bytes behind its compressed data, which were left out."""
    return isinstance(raw := getattr(stream, "raw", None), _Unpacked) and raw.has_rest


def refuse_bomb(unpacked: int, packed: int, options: ReadOptions, floor: int = BOMB_BYTES) -> None:
    """Raise an UnreadableError if a file unpacks to more than the floor and to far more than its size."""
    ratio = options.limits * BOMB_RATIO
    if unpacked > options.limits * floor and unpacked > ratio * max(packed, 1):
        raise UnreadableError(f"a decompression bomb: unpacks to more than {ratio:g} times its size")


class _Unpacked(Stream):
    """A decompressed stream that refuses to grow without end out of a few bytes."""

    def __init__(self, stream: Any, packed: BinaryIO, options: ReadOptions) -> None:
        super().__init__(stream.read1)
        self._stream = stream
        self._packed, self._bytes, self._options = packed, 0, options
        self._break: Exception | None = None

    @property
    def has_rest(self) -> bool:
        """Whether other bytes follow the compressed data."""
        return bool(getattr(self._stream, "has_rest", False))

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


class _Gzip:
    """Packed streams of gzip. What follows them and is none is left out, as gzip itself does."""

    def __init__(self, file: BinaryIO) -> None:
        self._stream = gzip.GzipFile(fileobj=file, mode="rb")
        self._has_begun = self.has_rest = False

    def read1(self, size: int) -> bytes:
        """Return some bytes, and none at the end."""
        try:
            block = self._stream.read1(size)
        except gzip.BadGzipFile as error:
            if not self._has_begun or not str(error).startswith("Not a gzipped file"):
                raise
            self.has_rest = True
            return b""
        self._has_begun = True
        return block


class _Zstd:
    """Frames of zstd. Arrow reads them, whose limit on a frame's window is 128 MB."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")

    def read1(self, size: int) -> bytes:
        """Return some bytes, and none at the end."""
        try:
            return cast(bytes, self._stream.read1(size))
        except OSError as error:
            if "too much memory" not in str(error):
                raise
        self._file.seek(0)
        window = _window(self._file.read(6))
        size_of = f"{window >> 20:,} MB" if window > WINDOW else "more than 128 MB"
        raise UnreadableError(
            f"a zstd frame with a window of {size_of}, and 128 MB are read; pack the file again without --long: "
            "zstd -dc --long=31 OLD | zstd -o NEW"
        )


def _window(head: bytes) -> int:
    """Return the window of a frame of zstd in bytes, by its header, or 0 if that has none."""
    if len(head) < 6 or compression_of(head) != "zst" or head[4] & 0x20:
        return 0
    exponent, mantissa = head[5] >> 3, head[5] & 7
    return (1 << exponent + 10) // 8 * (8 + mantissa)


class _Streams:
    """Packed streams, one behind the other. Python's own readers ignore a broken stream behind a whole one."""

    def __init__(self, file: BinaryIO, decompressor: Callable[[], Any]) -> None:
        self._file, self._new, self._stream = file, decompressor, decompressor()
        self.has_rest = False

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
                packed += self._file.read(MAGIC_BYTES)
                if self.has_rest or not compression_of(packed):
                    self.has_rest = True
                    return b""
                self._stream = self._new()
            elif self._stream.needs_input and not (packed := self._file.read(BUFFER)):
                raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            if block := self._stream.decompress(packed, size):
                return cast(bytes, block)
