"""Runs a module, `python end_with_parent.py PARENT MODULE ARGUMENTS`, until the process PARENT that started it ends.

It notices every end of the parent, SIGKILL included. It imports nothing of tokenmill, so it runs wherever the parent
did.
"""

import os
import runpy
import signal
import sys
import threading
import time


def end_with(parent: int) -> None:
    """End this process, in good order if it can, as soon as its parent is another process."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(15)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
