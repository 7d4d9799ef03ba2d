"""Processes that are known by their number and start time."""

import json
import os
import signal
import subprocess
import sys

import psutil

from pipelines.store.processes import ProcessId


def test_process_is_alive_until_it_ends():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = ProcessId.of(psutil.Process(child.pid))
    assert process.is_alive() and process != ProcessId.of_this()
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_alive(), "a zombie has ended"
    child.communicate()
    assert not process.is_alive()


def test_number_that_was_used_again_is_another_process():
    this = ProcessId.of_this()
    assert this.is_alive() and ProcessId(*json.loads(json.dumps(this))) == this
    assert not this._replace(started=this.started - 60).is_alive()
