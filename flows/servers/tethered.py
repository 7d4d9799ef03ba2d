"""Runs a module, `python tethered.py PARENT MODULE ARGUMENTS`, until the process PARENT that started it is no more.

However that ends, by SIGKILL too. Imports nothing of ours, so that it runs wherever the parent did.
"""

import os
import runpy
import signal
import sys
import threading
import time


def end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(15)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
