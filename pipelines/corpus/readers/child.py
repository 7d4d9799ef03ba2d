"""The program of a reader process: it reads one file after the other, within limits, and answers with records.

It is started by `processes`, with its socket's descriptor as argument and a pipe as standard input, whose end is the
end of the run.
"""

import fcntl
import io
import json
import logging
import os
import resource
import signal
import socket
import sys
from typing import Any, BinaryIO, cast

from pipelines.corpus.readers.formats import read_here
from pipelines.corpus.readers.limits import IDLE, Limits, address_space, processor_time
from pipelines.corpus.readers.records import BUFFER, Bad, Record, Rows
from pipelines.corpus.readers.wire import (
    BEGUN,
    END,
    HEADER_BYTES,
    INPUT_ERROR,
    MACHINE_ERROR,
    MEMORY_EXIT,
    RECORDS,
    SCHEMA,
    WANT,
    Request,
    decode_request,
    encode_record,
    encode_rows,
    message,
    unpack_header,
)
from pipelines.errors import InputError

MESSAGE_BYTES = 1 << 20  # of records that are sent at once
GROWN = 256 << 20  # bytes of address space that a file may leave behind, until the reader leaves too


def main(descriptor: int) -> None:
    """Answer requests until the run ends or is silent."""
    _end_with_run()
    channel = socket.socket(fileno=descriptor)
    before = address_space()
    while address_space() < before + GROWN:
        channel.settimeout(IDLE)
        try:
            request, descriptors = _receive(channel)
        except (EOFError, OSError):
            return
        channel.settimeout(None)
        _answer(channel, request, descriptors, before)


def _end_with_run() -> None:
    """End by a signal when the run's end of standard input is closed, in the middle of whatever parser this is in."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # parsers say there what hostile files have in them
    logging.getLogger().addHandler(logging.NullHandler())


def _receive(channel: socket.socket) -> tuple[Request, list[int]]:
    content, descriptors, *_ = socket.recv_fds(channel, HEADER_BYTES, 1)
    content += _exactly(channel, HEADER_BYTES - len(content))
    return decode_request(_exactly(channel, unpack_header(content)[1])), list(descriptors)


def _exactly(channel: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        if not (block := channel.recv(size - len(content))):
            raise EOFError
        content += block
    return content


def _answer(channel: socket.socket, request: Request, descriptors: list[int], before: int) -> None:
    channel.sendall(message(BEGUN))
    options, limits = request.options, Limits.of(request.size, request.options.limits)
    limits.limit_memory(before)
    held, size, schema = list[bytes](), 0, None
    with _File(channel, request, descriptors, limits) as raw:
        file = cast(BinaryIO, io.BufferedReader(raw, min(BUFFER, request.size + 1)))
        try:
            for found in read_here(file, request.name, options):
                if isinstance(found, Rows):
                    if held:
                        channel.sendall(_records(held))
                        held, size = [], 0
                    if schema is None or not schema.equals(found.batch.schema):
                        schema = found.batch.schema
                        channel.sendall(message(SCHEMA, schema.serialize().to_pybytes()))
                    for part in encode_rows(found):
                        channel.sendall(part)
                    continue
                for record in [found] if isinstance(found, Record | Bad) else found:
                    held.append(encode_record(record))
                    size += len(held[-1])
                    if size >= MESSAGE_BYTES:
                        channel.sendall(_records(held))
                        held, size = [], 0
            end = message(END)
        except InputError as error:
            end = message(INPUT_ERROR, str(error).encode())
        except MemoryError:
            os._exit(MEMORY_EXIT)
        except OSError as error:
            end = message(MACHINE_ERROR, json.dumps([error.errno, error.strerror or str(error)]).encode())
        channel.sendall((_records(held) if held else b"") + end)


def _records(held: list[bytes]) -> bytes:
    return message(RECORDS, b"[%s]" % b",".join(held))


class _File(io.RawIOBase):
    """The file of a request. Each byte that is read gives the reader more time."""

    def __init__(self, channel: socket.socket, request: Request, descriptors: list[int], limits: Limits) -> None:
        self._channel, self._size, self._limits = channel, request.size, limits
        self._descriptor = descriptors[0] if request.has_descriptor else None
        self._at = self._n_read = 0
        self._began = processor_time()
        limits.limit_time(self._began, 0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("a place before the start of the file")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._descriptor is not None:
            n_bytes = os.preadv(self._descriptor, [buffer], self._at)
        else:
            self._channel.sendall(message(WANT, json.dumps([self._at, len(buffer)]).encode()))
            _, n_bytes = unpack_header(_exactly(self._channel, HEADER_BYTES))
            buffer[:n_bytes] = _exactly(self._channel, n_bytes)
        self._at += n_bytes
        self._n_read += n_bytes
        self._limits.limit_time(self._began, self._n_read)
        return n_bytes

    def close(self) -> None:
        if self._descriptor is not None and not self.closed:
            os.close(self._descriptor)
        super().close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
