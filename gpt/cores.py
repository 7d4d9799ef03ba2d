"""Processor cores that this process may use: what its affinity and its quota (cgroups) leave of the machine's."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def cores() -> int:
    """Return how many threads can work at once in this process."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([allowed, *quotas()])))


def quotas(root: Path = Path("/")) -> Iterator[float]:
    """Yield the quotas, in cores, of the process's control groups and of the groups around them.

    A container sees its own group at the top, whatever `/proc/self/cgroup` calls it.
    """
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            group = root / "sys/fs/cgroup" / controllers
            own = group / path.strip("/")
            for folder in (own, *own.parents):
                if folder.is_relative_to(group):
                    yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    with suppress(OSError, ValueError):
        if (limit := folder / "cpu.max").exists():
            quota, period = limit.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{each}_us").read_text() for each in ("quota", "period"))
        if float(quota) > 0:  # a ValueError for `max`
            yield float(quota) / float(period)
