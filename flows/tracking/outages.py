"""Servers that do not answer in the middle of a run: they are named, waited for, and at last given up.

While `waiting_for` a server, every HTTP exchange of this process with it passes through here, whichever client makes
it: Prefect's, MLflow's or ours. Clients bound each read by time, so a server that drips would hold them for ever. Here
an exchange has a deadline, and is tried again until the server answers or `PATIENCE` is over. A thread asks the server
now and then, so that an outage has a name even while a training needs no server.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from flows.console import warn
from flows.home import Home
from flows.servers.health import answers
from flows.servers.prefect_server import send_events_and_logs
from pipelines.addresses import split_user, without_secrets
from pipelines.errors import ServerAway, cause_of
from pipelines.store.disks import full_disk

if TYPE_CHECKING:
    import httpx
    import requests

PATIENCE = 120.0  # seconds after which a run gives a server up
DEADLINE = 60.0  # seconds for one exchange, besides its upload
UPLOAD = 200_000  # bytes a second that an upload makes at least
PAUSE = 0.5  # seconds before a second attempt, which may find that a connection was only old; later pauses grow
LATE = 15.0  # seconds after which an exchange shows that the server does not answer
PROBE = 10.0  # seconds between two questions whether a server answers
PREFECT, MLFLOW = "Prefect's server", "MLflow"
HURRY = 5.0  # seconds after which an answer comes too late for a run that was asked to end
SLICE = 0.5  # seconds between two looks at whether the run was asked to end
GATEWAY = (502, 503, 504)  # statuses by which a proxy says that the server does not answer
SENDER = "background sender"  # threads that send curves and progress; they try again by themselves

_watched: list[Watched] = []
_installed = False
unsent = False  # whether Prefect's client may hold something, for which it would wait at the end of the process


class Watched:
    """A server that a run needs, and whether it answers.

    late_at: when each exchange under way will have taken too long. shown: a person knows that it does not answer.
    """

    def __init__(self, name: str, url: str, hurry: Callable[[], bool]) -> None:
        self.name, self.address, self.url = name, url, without_secrets(url)
        self._hurry = hurry
        self.late_at: list[float] = []
        self.shown = self.given_up = False
        self._lock = threading.Lock()

    def hurry(self) -> bool:
        """Return whether nobody waits any longer: the server was given up, or the run was asked to end."""
        return self.given_up or self._hurry()

    def attempts(self, path: str, upload: float) -> Generator[float]:
        """Yield the seconds to wait before each attempt at one exchange.

        Args:
            path: the end of its address.
            upload: seconds that the request itself may take.

        Raises:
            ServerAway: there were enough attempts.
            InputError: the disk is full.
        """
        # Log lines wait for as long as the run; the sender of curves tries again later.
        in_background = threading.current_thread().name == SENDER
        patience = math.inf if path.endswith("/logs/") else 0.0 if in_background else PATIENCE
        began, pause = time.monotonic(), 0.0
        late_at = began + LATE + upload
        self.late_at.append(late_at)
        try:
            while True:
                yield pause
                waited = time.monotonic() - began
                if full := full_disk([Home.from_environment().path]):
                    raise full  # a server on it fails in other words
                if waited > PAUSE:
                    self.missed()
                if waited > patience or self.given_up or (waited > HURRY and self._hurry()):
                    self.given_up = self.given_up or not in_background
                    raise ServerAway(
                        f"{self.name} at {self.url} does not answer. What was built is kept; when the server is back "
                        "(`tokenmill up` starts those of this machine), run again: that goes on from here."
                    )
                pause = min(PAUSE + waited / 5, 5.0)
        finally:
            self.late_at.remove(late_at)

    def answered(self) -> None:
        """Note that an exchange has ended well."""
        self.given_up = False
        with self._lock:
            was_shown, self.shown = self.shown, False
        if was_shown:
            warn(f"{self.name} at {self.url} answers again.")

    def missed(self) -> None:
        """Print once that the server does not answer."""
        with self._lock:
            was_shown, self.shown = self.shown, True
        if not was_shown:
            warn(f"{self.name} at {self.url} does not answer; waiting for it.")

    def watch(self, over: threading.Event) -> None:
        """Print when the server stops to answer and when it is back, until `over` is set."""
        asked_at = time.monotonic()
        while not over.wait(min(1.0, PROBE)):
            now = time.monotonic()
            if any(now > late_at for late_at in list(self.late_at)):
                self.missed()
            elif now - asked_at > PROBE:
                if answers(self.address) or answers(self.address, PAUSE):
                    self.answered()
                elif not over.is_set():
                    self.missed()
                asked_at = time.monotonic()


@contextmanager
def waiting_for(name: str, address: str, hurry: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Wait for a server whenever it does not answer, and say so; databases and servers that are watched pass.

    Args:
        name: what people call the server.
        address: where it is.
        hurry: whether the run was asked to end, and should wait no longer.

    Raises:
        ServerAway: it did not answer for too long, whatever its client made of that.
    """
    if not address.startswith("http") or any(server.address == address for server in _watched):
        yield
        return
    if not _watched:
        _install()
    server, over = Watched(name, address, hurry), threading.Event()
    _watched.append(server)
    threading.Thread(target=server.watch, args=[over], name=f"watch {name}", daemon=True).start()
    try:
        yield
    except Exception as error:
        away = cause_of(error, ServerAway)
        if away is None or away is error:
            raise
        raise away from error
    finally:
        over.set()
        _watched.remove(server)


def finish_sending(seconds: float = 10.0) -> None:
    """Let Prefect's client send the events and log lines that it still holds, in some seconds for each."""
    global unsent
    if any(server.shown or server.given_up for server in _watched):
        seconds = 0.5
    all_sent = send_events_and_logs(seconds)
    unsent = unsent or seconds < 1 or not all_sent


# The clients


def _install() -> None:
    """Lead the exchanges of httpx (Prefect's client, ours) and requests (MLflow's client) through `attempts`."""
    import httpx
    import requests

    global _installed
    if _installed:
        return
    _installed = True
    logging.raiseExceptions = "TOKENMILL_DEBUG" in os.environ  # else Prefect prints each log line that it cannot send
    missed = (httpx.TransportError, TimeoutError)
    missed_by_requests = (
        requests.ConnectionError,
        requests.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.RetryError,
        TimeoutError,
    )
    send, send_async, send_by_requests = httpx.Client.send, httpx.AsyncClient.send, requests.Session.send

    def patient(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        return _ask(str(request.url), request.headers, lambda: send(self, request, **options), missed)

    async def patient_async(self: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        ask = lambda: send_async(self, request, **options)  # noqa: E731
        return await _ask_async(str(request.url), request.headers, ask, missed)

    def patient_by_requests(
        self: requests.Session, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        ask = lambda: send_by_requests(self, request, **options)  # noqa: E731
        return _ask(str(request.url), request.headers, ask, missed_by_requests)

    httpx.Client.send, httpx.AsyncClient.send = patient, patient_async  # type: ignore[method-assign]
    requests.Session.send = patient_by_requests  # type: ignore[method-assign]


def _server_of(url: str) -> Watched | None:
    """Return the watched server that an address belongs to. Questions whether it answers pass at once."""
    plain = _plain(url)
    found = (each for each in _watched if plain.startswith(_plain(each.address)) and not plain.endswith("/health"))
    return next(found, None)


def _plain(url: str) -> str:
    """Return an address without a user, as clients may leave it out."""
    return split_user(url)[0].rstrip("/")


def _ask(url: str, headers: Any, send: Callable[[], Any], missed: tuple[type[Exception], ...]) -> Any:
    server = _server_of(url)
    if not server:
        return send()
    upload = _upload_seconds(headers)
    with closing(server.attempts(url, upload)) as attempts:
        for pause in attempts:
            time.sleep(pause)
            try:
                answer = _within(DEADLINE + upload, send, server.hurry)
            except missed:
                continue
            if answer.status_code not in GATEWAY:
                server.answered()
                return answer


async def _ask_async(
    url: str, headers: Any, send: Callable[[], Coroutine[Any, Any, Any]], missed: tuple[type[Exception], ...]
) -> Any:
    server = _server_of(url)
    if not server:
        return await send()
    upload = _upload_seconds(headers)
    with closing(server.attempts(url, upload)) as attempts:
        for pause in attempts:
            await asyncio.sleep(pause)
            exchange = asyncio.ensure_future(send())
            try:
                for _ in _slices(DEADLINE + upload, server.hurry):
                    if (await asyncio.wait([exchange], timeout=SLICE))[0]:
                        break
                if exchange.done() and (answer := exchange.result()).status_code not in GATEWAY:
                    server.answered()
                    return answer
            except missed:
                continue
            finally:
                exchange.cancel()  # unless it is done


def _upload_seconds(headers: Any) -> float:
    return float(int(headers.get("Content-Length") or 0) / UPLOAD)


def _within(seconds: float, call: Callable[[], Any], hurry: Callable[[], bool]) -> Any:
    """Return what a call returns; leave it behind in its thread if it takes too long.

    Raises:
        TimeoutError: it took too long.
    """
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=[work], daemon=True).start()
    for _ in _slices(seconds, hurry):
        try:
            return future.result(SLICE)
        except TimeoutError:
            if future.done():
                raise
    raise TimeoutError


def _slices(seconds: float, hurry: Callable[[], bool]) -> Iterator[None]:
    """Yield as long as somebody may wait for an answer: some seconds, or five if it is to hurry."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < seconds and not (waited > HURRY and hurry()):
        yield
