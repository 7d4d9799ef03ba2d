"""What all tests share: one thread a process, since tests run side by side, and no deadlines on noisy machines."""

import os
import signal
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch

import pytest
from hypothesis import settings

settings.register_profile("tokenmill", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("tokenmill")


@pytest.fixture(autouse=True)
def forget_tracking_uri(monkeypatch):
    """MLflow puts the address that a test's run wrote to into the environment, where the next test would find it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


# pytest-xdist's workers ignore SIGINT, and so would the programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def serve(monkeypatch):
    """serve(handler) starts a server on a free port of this machine, which answers in silence until the test ends."""
    monkeypatch.setattr(BaseHTTPRequestHandler, "log_message", lambda *_: None)
    with ExitStack() as servers:

        def start(handler):
            server = servers.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            servers.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
            return server

        yield start
