"""Run a chain while MLflow's server is away at several moments: `python outages.py HOME CONFIG SERVER`.

The runs reach the server through a proxy. At chosen requests it starts to drop requests or to leave them unanswered,
until the run gives MLflow up. The last line that the script prints is JSON: for each run its error, and for each of
its outages the failed requests and the datasets that were published at its end.
"""

import json
import os
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RETRIES = 2
os.environ |= {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(RETRIES),
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
GIVEN_UP = RETRIES + 1
"""Tries of one call after which MLflow's client gives up, and the run tries again."""
PATIENCE = 6.0
"""Seconds after which the run gives MLflow up; in earnest, two minutes."""


@dataclass
class Outage:
    """A time without MLflow: it begins with one request, and ends after a number of failed requests.

    begins: a part of the path and a part of the body of the first request.
    tries: the number of requests that fail.
    checkpoint: the outage ends only after the training has saved a checkpoint of this step.
    hangs: requests wait for the end of the outage; otherwise they are dropped.
    failed: the requests that have failed.
    left: the kinds of the datasets that were published at the end of the outage.
    """

    begins: tuple[str, str]
    tries: float
    checkpoint: int = 0
    hangs: bool = False
    failed: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    left: dict[str, Any] = field(default_factory=dict)


NEVER_BACK = float("inf")
RUNS = [
    [Outage(("runs/create", '"ingest topics"'), NEVER_BACK)],
    [
        Outage(("runs/create", '"tokenize topics"'), RETRIES),
        Outage(("log-batch", '"train/loss"'), 2 * GIVEN_UP, checkpoint=6),
        Outage(("log-batch", '"train/loss"'), GIVEN_UP + 1, hangs=True),
        Outage(("log-inputs", "model/tiny"), NEVER_BACK),
    ],
    [Outage(("runs/create", '"report tiny"'), RETRIES, hangs=True)],
]
"""The outages of each run, in order."""


class Proxy(ThreadingHTTPServer):
    """A proxy of MLflow's server, with outages."""

    def __init__(self, server: str, home: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.server, self.home = server, home
        self.outages: list[Outage] = []
        self.begun = False
        self.lock = threading.Lock()

    def outage(self, path: str, body: str) -> Outage | None:
        """Return the outage that a request belongs to, or None if it may pass."""
        with self.lock:
            if not self.outages:
                return None
            outage = self.outages[0]
            where, what = outage.begins
            self.begun = self.begun or (where in path and what in body)
            if not self.begun:
                return None
            saved = [int(each.name[5:]) for each in self.home.glob("data/.scratch/*/checkpoints/step-*")]
            trained = max(saved, default=0) >= outage.checkpoint or list(self.home.glob("data/model/*"))
            if outage.failed < outage.tries or not trained:
                outage.failed += 1
                return outage
            outage.left = {"published": sorted(path.parent.name for path in self.home.glob("data/[!.]*/*"))}
            self.outages.pop(0)
            self.begun = False
            outage.over.set()
            return None


class Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if outage := self.server.outage(self.path, body.decode(errors="replace")):
            self.close_connection = True
            if not outage.hangs:
                return
            outage.over.wait(60)
        kept = {name: self.headers[name] for name in ("Content-Type", "Authorization") if name in self.headers}
        request = urllib.request.Request(self.server.server + self.path, body or None, kept, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # the client has given up

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


def main(home: Path, config: Path, server: str) -> list[dict[str, Any]]:
    proxy = Proxy(server, home)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{proxy.server_port}"
    from flows.flows import FLOWS
    from flows.tracking import outages as servers
    from flows.tracking import step_run
    from pipelines.config import load_config

    servers.PATIENCE, servers.PAUSE = PATIENCE, 0.1
    step_run.PATIENCE_SECONDS = 0.2
    step_run.BATCH_SECONDS = 0.0
    results = []
    for outages in RUNS:
        proxy.outages, proxy.begun = list(outages), False
        error = attempt(lambda: FLOWS["pretrain"](load_config(config)))
        proxy.outages = []
        results.append({"error": error, "outages": [{"failed": each.failed, **each.left} for each in outages]})
    return results


def attempt(run: Callable[[], Any]) -> str | None:
    """Return the message of the ServerAway that a run raises, or None."""
    from pipelines.errors import ServerAway

    try:
        run()
    except ServerAway as error:
        return str(error)
    return None


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
