"""A file that ends its reader process costs only itself, and no reader outlives its run."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hostile import GOOD, pdf_of_forms
from reading import problems, read, texts

from pipelines.corpus.readers import processes
from pipelines.corpus.readers.formats import read_records
from pipelines.corpus.readers.processes import Queue
from pipelines.corpus.readers.records import Bad, ReadOptions, Record

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[4]
JSON = b'[{"text": "one"}, {"text": "two"}]'


class Meddling(io.BytesIO):
    """A file that does something when a reader wants its bytes."""

    def __init__(self, content: bytes, meddle: Callable[[], None]) -> None:
        super().__init__(content)
        self.meddle = meddle

    def read(self, size: int | None = -1) -> bytes:
        self.meddle()
        return super().read(size)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_crash_costs_the_file_and_names_the_signal(number: signal.Signals) -> None:
    queue = Queue()

    def kill() -> None:
        assert queue._reader
        queue._reader.process.send_signal(number)

    (bad,) = queue.read(Meddling(JSON, kill), "a.json", ReadOptions())
    assert isinstance(bad, Bad) and bad.reason.startswith(f"its reader ended by signal {number.value} (")
    assert texts(read(JSON, "a.json")) == ["one", "two"]


def test_files_asked_for_in_advance_survive_a_crash(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.json" for number in range(6)]
    for path in paths:
        path.write_bytes(JSON)
    paths[2].write_bytes(b'{"":[' + b'{"":0},' * 4_000_000 + b"{}]}")
    found: list[list[Any]] = []
    with Queue() as queue:
        files = [path.open("rb") for path in paths]
        for file, path in zip(files, paths, strict=True):
            queue.ask(file, path.name, ReadOptions(limits=0.3))
        for file, path in zip(files, paths, strict=True):
            found.append(list(read_records(file, path.name, ReadOptions(limits=0.3), queue=queue)))
            file.close()
    assert [len(each) for each in found] == [2, 2, 1, 2, 2, 2]
    assert problems(found[2]) == [("file", "it takes more than 256 MB of memory to read")]


def test_endless_work_ends_after_the_processors_time() -> None:
    began = time.process_time()
    (bad,) = read(pdf_of_forms(5_000, 20_000), "a.pdf", limits=0.3)
    assert isinstance(bad, Bad) and bad.reason == "it takes more than 2 seconds to read"
    assert time.process_time() - began < 1


def test_errors_of_the_machine_are_raised_through_the_process() -> None:
    def fail() -> None:
        raise ConnectionResetError("reset by peer")

    with pytest.raises(ConnectionResetError, match="reset by peer"):
        list(Queue().read(Meddling(JSON, fail), "a.json", ReadOptions()))


def test_reader_that_left_is_replaced() -> None:
    assert texts(read(JSON, "a.json")) == ["one", "two"]
    for reader in processes._idle:
        reader.process.kill()
    assert texts(read(JSON, "a.json")) == ["one", "two"]


def test_unfinished_reading_ends_the_reader() -> None:
    queue = Queue()
    found = queue.read(io.BytesIO(JSON), "a.json", ReadOptions())
    assert isinstance(next(found), Record)
    assert queue._reader
    process = queue._reader.process
    found.close()
    assert process.returncode == -signal.SIGKILL


def test_reader_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.end_readers()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sentinel-of-a-secret")
    assert texts(read(JSON, "a.json")) == ["one", "two"]
    (reader,) = processes._idle
    assert b"sentinel" not in Path(f"/proc/{reader.process.pid}/environ").read_bytes()
    processes.end_readers()


@pytest.mark.parametrize("extension", GOOD)
def test_records_are_the_same_with_and_without_a_descriptor(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{extension}"
    path.write_bytes(GOOD[extension])
    options = ReadOptions(format="python-dict" if extension == "py" else None)
    with path.open("rb") as file:
        local = [list(each) if not isinstance(each, Bad) else each for each in read_records(file, path.name, options)]
    served = read_records(io.BytesIO(GOOD[extension]), path.name, options)
    assert local == [list(each) if not isinstance(each, Bad) else each for each in served] and local


RUN = """
import io, sys
sys.path.insert(0, "tests/support")
from hostile import pdf_of_forms
from pipelines.corpus.readers.processes import Queue
from pipelines.corpus.readers.records import ReadOptions
queue = Queue()
file = io.BytesIO(pdf_of_forms(5_000, 20_000))
queue.ask(file, "a.pdf", ReadOptions(limits=9))
print(queue._begin().process.pid, flush=True)
list(queue._reader.read(queue._asked[0]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_reader_outlives_its_run(number: signal.Signals) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert run.stdout
    reader = psutil.Process(int(run.stdout.readline()))
    time.sleep(1)  # it is in the middle of a page
    os.kill(run.pid, number)
    run.wait(10)
    run.stdout.close()
    assert psutil.wait_procs([reader], timeout=5)[1] == []
