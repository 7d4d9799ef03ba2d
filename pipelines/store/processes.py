"""Processes of this machine, known by their number and start time, since numbers are used again."""

from __future__ import annotations

from typing import NamedTuple

import psutil


class ProcessId(NamedTuple):
    """A process of this machine, as a pair that JSON can hold.

    started: seconds between the boot of the machine and the start of the process. A change of the clock does not
        change them.
    """

    pid: int
    started: float

    @classmethod
    def of_this(cls) -> ProcessId:
        """Return the process that asks."""
        return cls.of(psutil.Process())

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessId:
        """Return the identity of a process that psutil has found."""
        return cls(process.pid, round(process.create_time() - psutil.boot_time(), 2))

    def is_alive(self) -> bool:
        """Return whether the process still runs; one that only waits for its parent to notice its end does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(ProcessId.of(process).started - self.started) < 1
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
