"""Ends a process soon after its second SIGINT or SIGTERM: `python watchdog.py PROCESS SECONDS < signals`.

Python looks at signals only between two steps of its own. Inside a long call of C code, a thread of the same process
may not run either. The operating system writes the number of each signal into a pipe at once, and this process reads
it. PROCESS is its parent, so no other process can have that number.
"""

import os
import select
import signal
import sys
import time


def watch(process: int, seconds: float) -> None:
    """Wait for two signals; then kill the process and what it started, unless it ends by itself within some seconds."""
    left = 2
    while left and os.getppid() == process:
        if select.select([0], [], [], 5)[0]:
            number = os.read(0, 1)
            if not number:
                return  # the process has ended
            left -= number[0] in (signal.SIGINT, signal.SIGTERM)
    until = time.monotonic() + seconds
    while os.getppid() == process and time.monotonic() < until:
        time.sleep(0.05)
    if os.getppid() == process:
        _kill(process)
        print("tokenmill: ended by a second signal; saved work is kept.", file=sys.stderr)


def _kill(process: int) -> None:
    import psutil  # a tenth of a second, which most runs need not pay

    parent = psutil.Process(process)
    parent.suspend()  # so that it starts nothing more
    for child in parent.children(recursive=True):
        if child.pid != os.getpid():
            child.kill()
    if os.getppid() == process:
        parent.kill()


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]))
