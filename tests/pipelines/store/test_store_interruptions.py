"""The store when processes die or work at the same time."""

import os
import random
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from examples import below, leftovers, step, writes

from pipelines.store.step import Stopped
from pipelines.store.store import Store

pytestmark = pytest.mark.integration


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "data")


def build_in_child(store, rebuild=False, die_at=None, die_after=None):
    """Build in a forked process that kills itself at its n-th file-system call, or after some seconds.

    Returns how many such calls it made, or None if it was killed.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        calls = 0
        root = str(store.root)

        def count(event, arguments):
            nonlocal calls
            path = str(arguments[0]) if arguments else ""
            # The writes to .intact depend on the clock.
            if event in WATCHED and path.startswith(root) and "/.intact" not in path:
                calls += 1
                if calls == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(count)
            store.sweep()
            store.build(step(), writes("new" if rebuild else "text"), rebuild=rebuild)
            os.write(write, str(calls).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    if die_after is not None:
        time.sleep(die_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        calls = pipe.read()
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return int(calls) if calls else None


WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree"}


@pytest.mark.parametrize("rebuild", [False, True])
def test_kill_at_any_call_leaves_a_dataset_whole_or_absent(store, rebuild):
    def fresh():
        shutil.rmtree(store.root, ignore_errors=True)
        if rebuild:
            store.build(step(), writes())

    fresh()
    calls = build_in_child(store, rebuild)
    assert calls > 30
    for call in range(1, calls + 1):
        fresh()
        assert build_in_child(store, rebuild, die_at=call) is None
        holds_after_a_kill(store, rebuild)


@pytest.mark.parametrize("seed", range(8))
def test_kill_at_any_time_leaves_a_dataset_whole_or_absent(store, seed):
    rebuild = bool(seed % 2)
    if rebuild:
        store.build(step(), writes())
    build_in_child(store, rebuild, die_after=random.Random(seed).uniform(0, 0.03))
    holds_after_a_kill(store, rebuild)


def holds_after_a_kill(store, rebuild):
    found = store.list()
    assert all(store.verify(dataset) == [] for dataset in found)
    assert all(
        path.parts[0] in (".staging", ".scratch", ".locks", ".intact")
        for path in below(store)
        if path.parts[0] != "things"
    )
    store.sweep()
    assert not list(store.root.glob(".staging/*"))
    found = store.list()
    if rebuild:
        assert len(found) == 1, "what was published before stays until the new one is there"
    texts = [dataset.file("one.txt").read_text() for dataset in found]
    assert texts in ([], ["text"], ["new"])
    built = store.build(step(), writes())
    assert store.verify(built) == []
    assert store.list() == [built]
    store.sweep()
    assert leftovers(store) == []


def in_children(number, work):
    """Run work(i) in forked processes that start together; returns how many failed."""
    start = time.time() + 0.2
    children = []
    for i in range(number):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                time.sleep(max(0, start - time.time()))
                work(i)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def test_many_builders_of_one_step_publish_one_folder(store, tmp_path):
    def work(i):
        def run(out, scratch):
            with (tmp_path / "ran").open("a") as log:
                log.write(f"{i}\n")
            time.sleep(0.05)
            return writes()(out, scratch)

        store.sweep()
        waits = []
        dataset = store.build(step(), run, on_wait=lambda: waits.append(i))
        assert store.verify(dataset) == [] and len(waits) <= 1
        store.sweep()

    assert in_children(8, work) == 0
    assert len((tmp_path / "ran").read_text().splitlines()) == 1
    assert len(store.list()) == 1
    assert leftovers(store) == []


def test_many_processes_sweep_at_once(store):
    for round in range(5):
        for i in range(20):
            (store.root / ".staging" / f"{round}-{i:064d}").mkdir(parents=True)
        assert in_children(4, lambda i: store.sweep()) == 0
        assert not list(store.root.glob(".staging/*"))


def test_waiting_for_another_process_can_be_stopped(store):
    waits = []
    with ThreadPoolExecutor(1) as other:
        held = other.submit(store.lock(step().fingerprint).acquire).result()
        with pytest.raises(Stopped, match="another process was building"):
            store.build(step(), writes(), on_wait=lambda: waits.append(1), should_stop=lambda: bool(waits))
        other.submit(held.lock.release).result()
    assert waits == [1]
    assert store.build(step(), writes())
