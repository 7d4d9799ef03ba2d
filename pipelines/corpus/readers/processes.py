"""Reader processes: they run parsers of foreign files with limits, and a file that ends one costs only itself.

A reader process is started with the first file, reads one file after the other, and ends when nobody has asked it for
a while or when the run ends. Threads of a run take idle ones from a common list.
"""

import atexit
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from pipelines.corpus.readers.compression import refuse_bomb
from pipelines.corpus.readers.limits import IDLE, Limits
from pipelines.corpus.readers.records import BUFFER, Bad, ReadOptions, Record, Records, UnreadableError, to_seekable
from pipelines.corpus.readers.weight import weight_of_batch
from pipelines.corpus.readers.wire import (
    BATCH,
    BEGUN,
    DATA,
    END,
    FILE,
    INPUT_ERROR,
    MACHINE_ERROR,
    MEMORY_EXIT,
    RECORDS,
    WANT,
    Request,
    decode_batch,
    decode_records,
    message,
    read_message,
)
from pipelines.errors import InputError

CHILD = "pipelines.corpus.readers.child"
PACKAGES = Path(__file__).parents[3]
KEPT_VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "TMPDIR", "TZ")
# One thread and one arena each, since their address space counts as memory. Nobody's secrets.
VARIABLES = {
    "PYTHONPATH": str(PACKAGES),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "ARROW_IO_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
ATTEMPTS = 3  # to find a reader that begins
SLICE = 256  # rows that become Python objects at once

_idle: list["_Reader"] = []
_lock = threading.Lock()


def read_isolated(file: BinaryIO, name: str, options: ReadOptions) -> Iterator[Record | Records | Bad]:
    """Yield the records of an open file that a reader process reads. A file that breaks a limit ends with a `Bad`.

    Raises:
        InputError: the options are wrong, or a package is missing.
        OSError: the machine failed, and not the file.
    """
    file = to_seekable(file)
    limits, last = Limits.of(file.seek(0, io.SEEK_END), options.limits), ""
    reader = _begin(file, name, options, limits)
    is_whole = False
    try:
        for found in reader.read(file, options, limits):
            last = found.last_location if isinstance(found, Records) else found.location
            yield found
        is_whole = True
    except UnreadableError as error:
        yield Bad(str(error), f"after {last}" if last else "file")
    finally:
        if is_whole:
            _give_back(reader)
        else:
            reader.end()


def _begin(file: BinaryIO, name: str, options: ReadOptions, limits: Limits) -> "_Reader":
    """Return a reader that has begun to read the file.

    Raises:
        RuntimeError: none can be started.
    """
    for _ in range(ATTEMPTS):
        reader = _take()
        file.seek(0)
        if reader.begin(file, name, options, limits):
            return reader
        reader.end()  # it was idle for so long that it left
    raise RuntimeError("no reader process starts; its error is above")


class _Reader:
    """A reader process, and the run's end of its socket. The process ends when its standard input is closed."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", CHILD, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment | VARIABLES,
                start_new_session=True,  # Ctrl-C is for the run
            )
        self.stream = cast(BinaryIO, self.socket.makefile("rb", 1 << 20))
        self.idle_since = 0.0

    def begin(self, file: BinaryIO, name: str, options: ReadOptions, limits: Limits) -> bool:
        """Ask for a file, and return whether the process is there to read it."""
        self.socket.settimeout(limits.patience)
        descriptor = _descriptor(file)
        request = message(FILE, Request.of(name, limits.size, descriptor is not None, options).encode())
        try:
            sent = socket.send_fds(self.socket, [request], [] if descriptor is None else [descriptor])
            self.socket.sendall(request[sent:])
            return read_message(self.stream, 0)[0] == BEGUN
        except (EOFError, OSError):
            return False

    def read(self, file: BinaryIO, options: ReadOptions, limits: Limits) -> Iterator[Record | Records | Bad]:
        """Yield the records of the file.

        Raises:
            UnreadableError: the file ended the process or broke a limit.
        """
        row, weight = 1, 0
        while (received := self._receive(limits))[0] != END:
            kind, content = received
            if kind == WANT:
                at, size = json.loads(content)
                file.seek(at)
                block = file.read(min(size, BUFFER))  # whose errors are those of the machine or the network
                self._send(message(DATA, block), limits)
                continue
            if kind == INPUT_ERROR:
                raise InputError(content.decode())
            if kind == MACHINE_ERROR:
                raise OSError(*json.loads(content))
            try:
                if kind == RECORDS:
                    weight += len(content)
                    refuse_bomb(weight, limits.size, options)
                    yield from decode_records(content)
                    continue
                if kind != BATCH:
                    raise ValueError("its reader gave a damaged answer")
                batch = decode_batch(content)
                weight += weight_of_batch(batch)
                refuse_bomb(weight, limits.size, options)
                for start in range(0, len(batch), SLICE):
                    records = Records(batch.slice(start, SLICE).to_pylist(), "row", row)
                    row += len(records)
                    yield records
            except (ValueError, OverflowError, RecursionError, pa.ArrowException) as error:
                raise UnreadableError((str(error) or type(error).__name__).splitlines()[0]) from None

    def _receive(self, limits: Limits) -> tuple[bytes, bytes]:
        try:
            return read_message(self.stream, limits.memory)
        except (EOFError, OSError, ValueError) as error:
            raise self._why(error, limits) from None

    def _send(self, content: bytes, limits: Limits) -> None:
        try:
            self.socket.sendall(content)
        except OSError as error:
            raise self._why(error, limits) from None

    def _why(self, error: Exception, limits: Limits) -> UnreadableError:
        """Return why the process does not answer."""
        if isinstance(error, TimeoutError):
            return UnreadableError(f"its reader gave no sign for {limits.patience:,.0f} seconds")
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return UnreadableError("its reader gave a damaged answer")
        if code == MEMORY_EXIT:
            return UnreadableError(f"it takes more than {limits.memory >> 20:,} MB of memory to read")
        if code == -signal.SIGXCPU:
            return UnreadableError(f"it takes more than {limits.seconds(limits.size):,.0f} seconds to read")
        if code < 0:
            return UnreadableError(f"its reader ended by signal {-code} ({signal.strsignal(-code)})")
        return UnreadableError(f"its reader ended with exit code {code}")

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.stream.close()
        self.socket.close()
        with suppress(OSError):
            cast(BinaryIO, self.process.stdin).close()


def _descriptor(file: BinaryIO) -> int | None:
    """Return the descriptor of a local file, whose position is that of the file. Others are served by the run."""
    if not isinstance(file, io.BufferedReader) or not isinstance(file.raw, io.FileIO):
        return None
    os.lseek(file.fileno(), file.tell(), os.SEEK_SET)  # not where the buffer has read to
    return file.fileno()


def _take() -> _Reader:
    """Return an idle reader, or a new one. Readers that are about to leave are ended."""
    while True:
        with _lock:
            if not _idle:
                break
            reader = _idle.pop()
        if time.monotonic() - reader.idle_since < IDLE / 2 and reader.process.poll() is None:
            return reader
        reader.end()
    return _Reader()


def _give_back(reader: _Reader) -> None:
    reader.idle_since = time.monotonic()
    with _lock:
        _idle.append(reader)


def end_readers() -> None:
    """End all idle reader processes."""
    with _lock:
        readers, _idle[:] = list(_idle), []
    for reader in readers:
        with suppress(OSError):
            reader.end()


atexit.register(end_readers)
os.register_at_fork(after_in_child=_idle.clear)  # two processes cannot share a reader
