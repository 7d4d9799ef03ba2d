"""Signals to a run: the first SIGINT or SIGTERM asks it to save and stop, the second ends it within seconds."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from flows.console import warn

GRACE = 6.0  # seconds for a run to end by itself after the second signal
WATCHDOG = Path(__file__).with_name("watchdog.py")

received: list[signal.Signals] = []
"""The signals that asked this process to stop, in order of arrival."""


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a signal asked the run to end."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may take signals; a Prefect worker handles them itself
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        for which, handler in before.items():
            signal.signal(which, handler)
        warn(f"{signal.Signals(number).name}: saving and stopping; once more ends at once.", in_log=False)

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_on_second_signal(grace: float = GRACE) -> None:
    """Have another process end this one after a second signal, wherever it is: in C code, or in its own clean-up."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    command = [sys.executable, "-P", str(WATCHDOG), str(os.getpid()), str(grace)]
    # A session of its own, which Ctrl-C does not reach.
    subprocess.Popen(command, stdin=read, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our own command
    os.close(read)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a signal to a child is no second one


def exit_code() -> int:
    """Return the exit code after a signal: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (received[0] if received else signal.SIGINT)
