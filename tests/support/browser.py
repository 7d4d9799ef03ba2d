"""Chromium for the tests that look at pages: the program `chromium`, or the path in `TOKENMILL_CHROMIUM`."""

import os
import shutil

CHROMIUM = os.environ.get("TOKENMILL_CHROMIUM") or shutil.which("chromium")
MISSING = "no Chromium: apt-get install chromium, or name it in TOKENMILL_CHROMIUM"
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT = 120 * 1000  # milliseconds: pages are slow on a busy machine
