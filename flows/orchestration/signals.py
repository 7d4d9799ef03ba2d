"""Signals to a run: the first SIGINT or SIGTERM asks it to save and stop, the second ends it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from flows.console import warn

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
        warn(f"{signal.Signals(number).name}: saving and stopping; once more ends at once.")

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code() -> int:
    """Return the exit code after a signal: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (received[0] if received else signal.SIGINT)
