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
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, cast

import pyarrow as pa

from pipelines.corpus.readers.compression import refuse_bomb
from pipelines.corpus.readers.limits import IDLE, Limits
from pipelines.corpus.readers.records import BUFFER, Bad, ReadOptions, Record, Records, UnreadableError, to_seekable
from pipelines.corpus.readers.values import to_python
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
    SCHEMA,
    WANT,
    decode_records,
    decode_rows,
    decode_schema,
    encode_request,
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
    "PYDANTIC_DISABLE_PLUGINS": "__all__",  # to look for which takes time
}
ATTEMPTS = 3  # to find a reader that begins
SHORT = 4096  # bytes of a request that is sent in advance: all of them fit into the socket while nobody reads it
SLICE = 256  # rows that become Python objects at once

_idle: list["_Reader"] = []
_lock = threading.Lock()


@dataclass
class _Asked:
    """A file that a reader is asked for. The run serves the bytes of a file without a descriptor.

    rows_left: how many rows are to come, if the file says that.
    """

    file: BinaryIO
    options: ReadOptions
    limits: Limits
    request: bytes
    descriptor: int | None
    is_sent: bool = False
    rows_left: int = 0


class Queue:
    """Files that one reader process is asked for, some of them in advance, so that it never waits for the run."""

    def __init__(self) -> None:
        self._asked: deque[_Asked] = deque()
        self._reader: _Reader | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, file: BinaryIO, name: str, options: ReadOptions) -> None:
        """Ask for an open file that will be read after those that were asked for before."""
        seekable = to_seekable(file)
        limits = Limits.of(seekable.seek(0, io.SEEK_END), options.limits)
        seekable.seek(0)
        descriptor = _descriptor(seekable)
        request = message(FILE, encode_request(name, limits.size, descriptor is not None, options))
        self._asked.append(_Asked(file, options, limits, request, descriptor))

    def read(self, file: BinaryIO, name: str, options: ReadOptions) -> Iterator[Record | Records | Bad]:
        """Yield the records of a file. A file that breaks a limit or its reader ends with a `Bad`.

        Raises:
            InputError: the options are wrong, or a package is missing.
            OSError: the machine failed, and not the file.
        """
        if not self._asked or self._asked[0].file is not file:
            self.close()
            self.ask(file, name, options)
        reader, last, is_whole = self._begin(), "", False
        asked = self._asked[0]
        try:
            for found in reader.read(asked):
                last = found.last_location if isinstance(found, Records) else found.location
                yield found
            is_whole = True
        except UnreadableError as error:
            n_bytes = 0 if last else asked.limits.size
            yield Bad(str(error), f"after {last}" if last else "file", "", asked.rows_left, n_bytes)
        finally:
            if self._asked:
                self._asked.popleft()
            if not is_whole:
                self._end_reader()

    def close(self) -> None:
        """Leave the reader to others. It is ended if files remain that it was asked for."""
        if self._asked:
            self._asked.clear()
            self._end_reader()
        if self._reader:
            _give_back(self._reader)
            self._reader = None

    def _begin(self) -> "_Reader":
        """Return a reader that has begun to read the first file.

        Raises:
            RuntimeError: none can be started.
        """
        for _ in range(ATTEMPTS):
            self._reader = reader = self._reader or _take()
            if reader.send_requests(self._asked):
                return reader
            self._end_reader()  # it left, since it was idle for long or had grown
        raise RuntimeError("no reader process starts; its error is above")

    def _end_reader(self) -> None:
        if self._reader:
            self._reader.end()
        self._reader = None
        for asked in self._asked:
            asked.is_sent = False


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

    def send_requests(self, asked: Sequence[_Asked]) -> bool:
        """Send the first request, and others that may follow. Return whether the process begins to read the first."""
        first = asked[0]
        self.socket.settimeout(first.limits.patience)
        try:
            for each in asked:
                in_advance = first.descriptor is not None and each.descriptor is not None
                if each is not first and not (in_advance and len(each.request) <= SHORT):
                    break
                if not each.is_sent:
                    descriptors = [] if each.descriptor is None else [each.descriptor]
                    sent = socket.send_fds(self.socket, [each.request], descriptors)
                    self.socket.sendall(each.request[sent:])
                    each.is_sent = True
            return read_message(self.stream, 0)[0] == BEGUN
        except (EOFError, OSError, ValueError):
            return False

    def read(self, asked: _Asked) -> Iterator[Record | Records | Bad]:
        """Yield the records of the file that the process has begun to read.

        Raises:
            UnreadableError: the file ended the process or broke a limit.
        """
        file, options, limits = asked.file, asked.options, asked.limits
        weight, schema = 0, pa.schema([])
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
                if kind == SCHEMA:
                    schema = decode_schema(content)
                    continue
                if kind != BATCH:
                    raise ValueError("its reader gave a damaged answer")
                rows = decode_rows(content, schema)
                weight += weight_of_batch(rows.batch)
                refuse_bomb(weight, limits.size, options)
                for start in range(0, len(rows.batch), SLICE):
                    asked.rows_left = max(0, rows.total + 1 - rows.first - start)
                    yield Records(to_python(rows.batch.slice(start, SLICE)), "row", rows.first + start)
                asked.rows_left = max(0, rows.total + 1 - rows.first - len(rows.batch))
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
