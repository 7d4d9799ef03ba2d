"""A terminal: what a command sends to it."""

import os
import pty
import re
import subprocess
import termios
from contextlib import suppress

RICH = re.compile(r"\x1b\[(?:[0-9;]*m|2K|1A|\?25[lh])")
"""The styles of rich, and the moves of its progress bar."""


def on_terminal(*command, **environment):
    """Run a command with a terminal as standard output and error, and return what arrives there."""
    ours, theirs = pty.openpty()
    settings = termios.tcgetattr(theirs)
    settings[1] &= ~termios.OPOST  # a newline stays one character
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    termios.tcsetwinsize(theirs, (40, 400))
    size = {"COLUMNS": "400", "LINES": "40"}  # which other tests may have left otherwise
    environment = os.environ | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | size | environment
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    arrived = b""
    with suppress(OSError):  # Linux's end of a terminal
        while piece := os.read(ours, 65536):
            arrived += piece
    os.close(ours)
    process.wait()
    return arrived.decode()
