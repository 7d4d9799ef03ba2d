"""Limits of a reader process: memory and time in proportion to a file's bytes, far above what a good file needs."""

import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MEMORY, MEMORY_PER_BYTE = 640 << 20, 8
SECONDS, SECONDS_PER_BYTE = 5.0, 20 / (1 << 20)  # of the processor's time, which other processes do not lengthen
IDLE = 60.0  # seconds after which a reader leaves that nobody has asked


@dataclass(frozen=True)
class Limits:
    """What a file of some size may take.

    memory: bytes, beside those of a reader that has read nothing.
    patience: seconds of the clock that the run waits for a message.
    """

    size: int
    memory: int
    factor: float

    @classmethod
    def of(cls, size: int, factor: float) -> "Limits":
        """Return the limits of a file, multiplied by the factor of its source."""
        return cls(size, int(factor * (MEMORY + MEMORY_PER_BYTE * size)), factor)

    def seconds(self, n_bytes: int) -> float:
        """Return how much of the processor's time a reader may take that has read so many bytes of the file."""
        return self.factor * (SECONDS + SECONDS_PER_BYTE * min(n_bytes, self.size))

    @property
    def patience(self) -> float:
        """Seconds of the clock without a message after which a reader hangs."""
        return 60 + 10 * self.seconds(self.size)

    def limit_memory(self, before: int) -> None:
        """Let this process take the limit's memory beside what it had `before`."""
        _limit(resource.RLIMIT_AS, before + self.memory)

    def limit_time(self, began: float, n_bytes: int) -> None:
        """End this process when it takes longer than a file of so many bytes may. It `began` at a processor's time."""
        _limit(resource.RLIMIT_CPU, int(began + self.seconds(n_bytes)) + 1)


def address_space() -> int:
    """Return the bytes of this process's address space, as Linux counts them."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0


def processor_time() -> float:
    """Return the seconds of the processor's time that this process took."""
    return time.process_time()


def _limit(what: int, value: int) -> None:
    with suppress(ValueError, OSError):  # a system may not have the limit, or a lower one for all
        resource.setrlimit(what, (value, resource.getrlimit(what)[1]))
