"""A second signal ends a process and all that it started, even inside C code that keeps Python from running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

RUN = """
import os, subprocess, sys, time, unicodedata
from flows.orchestration.signals import end_on_second_signal, stop_on_signals
end_on_second_signal(grace=1)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with stop_on_signals() as should_stop:
    print(child.pid, flush=True)
    {work}
"""
WORK = {
    "in C code": "unicodedata.normalize('NFC', 'a' + '\\u0316\\u0301' * 500_000)",
    "in a clean-up that hangs": "\n    try: time.sleep(600)\n    finally: time.sleep(600)",
}


def start(work):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", RUN.format(work=work)], env=environment, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize("where", WORK)
def test_second_signal_ends_a_run_and_its_children(where):
    with start(WORK[where]) as run:
        child = psutil.Process(int(run.stdout.readline()))
        watchdog = next(each for each in psutil.Process(run.pid).children() if each != child)
        for _ in range(2):
            time.sleep(0.3)
            run.send_signal(signal.SIGINT)
        assert run.wait(8) == -signal.SIGKILL
        assert b"ended by a second signal" in run.stderr.read()
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        watchdog.wait(5)


def test_signal_to_a_forked_child_is_no_second_one():
    work = "if os.fork() == 0: os._exit(os.kill(os.getpid(), 2) or 0)\n    time.sleep(1.5)\n    child.kill()"
    with start(work.replace("if", "\n    if", 1)) as run:
        run.stdout.readline()
        watchdog = next(each for each in psutil.Process(run.pid).children() if "watchdog.py" in str(each.cmdline()))
        run.send_signal(signal.SIGINT)
        assert run.wait(8) == 0
        watchdog.wait(5)
