"""The local stack: a Prefect server and the MLflow UI, in the background on this machine, with their databases
under the home folder. What a run wrote through a server that lived only as long as the run, `tokenmill up` shows.

A server holds a lock on its record (`.tokenmill/prefect.json`) for as long as it lives: the operating system lets
go of it whatever ends the server, so a stale record or a process id that now belongs to somebody else deceives
nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from filelock import FileLock

from pipelines.errors import InputError

LOOPBACK = "127.0.0.1"
TETHERED = Path(__file__).with_name("tethered.py")
STARTING = 180  # seconds: a new database takes half a minute on a busy machine, an old one two
STOPPING = 15  # seconds between asking a server to end and ending it
NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""What keeps both tools from calling home; a person who set one of these otherwise is heeded."""

PLACES = ("PREFECT_HOME", "MLFLOW_BACKEND_STORE_URI")
"""Variables of the servers that say where their data is, which the home and `MLFLOW_TRACKING_URI` decide alone."""

Choice = Literal["named", "up", "temporary"]


@dataclass(frozen=True)
class Service:
    """One of the two servers as it is now.

    running: whether it answers. ours: whether `up` started it, in which case `down` ends it and pid, since and log
    are known; otherwise `PREFECT_API_URL` or `MLFLOW_TRACKING_URI` names it, or it does not run at all.
    """

    name: str
    url: str
    running: bool
    ours: bool
    pid: int | None = None
    since: datetime | None = None
    log: Path | None = None


class Stack:
    """The Prefect server and the MLflow UI of one home folder.

    Args:
        home: the folder under which `mlruns/` and `.tokenmill/` lie.
        prefect_port, mlflow_port: where to listen; by default what `TOKENMILL_PREFECT_PORT` and
            `TOKENMILL_MLFLOW_PORT` say, or else 4200 and 5000.
    """

    def __init__(self, home: Path | str, prefect_port: int | None = None, mlflow_port: int | None = None) -> None:
        self.home = Path(home).absolute()
        self.servers = (
            _prefect(self.home, prefect_port or _port("TOKENMILL_PREFECT_PORT", 4200)),
            _mlflow(self.home, mlflow_port or _port("TOKENMILL_MLFLOW_PORT", 5000)),
        )

    def up(self) -> list[Service]:
        """Start what does not run yet, and wait until both answer.

        Raises:
            InputError: a port is taken, or a server did not come up.
        """
        with self._alone():
            missing = [server for server in self.servers if not _record(server) and not _named(server)]
            for server in missing:  # both, before one of them starts
                _make_way(server)
            started = {server.name: _spawn(server) for server in missing}
            for server in self.servers:
                if _record(server) or server.name in started:
                    _wait_until_healthy(server, started.get(server.name))
        return self.status()

    def status(self) -> list[Service]:
        """Both servers as they are now."""
        return [_status(server) for server in self.servers]

    def down(self) -> list[Service]:
        """End what `up` started, with every process it started in turn, and nothing else; returns what ended."""
        ended = []
        with self._alone():
            for server in self.servers:
                service = _status(server)
                if record := _record(server):
                    _end(record.pid, gone=partial(_is_dead, server))
                    ended.append(service)
                _end_orphans(server)
                server.record.unlink(missing_ok=True)
        return ended

    def _alone(self) -> FileLock:
        return FileLock(_private(self.home) / "stack.lock")


@contextlib.contextmanager
def prefect_server(home: Path | str, tell: Callable[[Choice], None] = lambda choice: None) -> Iterator[str]:
    """A Prefect server to run flows against; yields the address of its API, which Prefect in this process then uses.

    It is the server that `PREFECT_API_URL` names, or else the one that `tokenmill up` started, or else one that
    lives as long as this context, or this process if that is killed. Enter it before importing prefect if you can:
    settings that Prefect read earlier reach the threads it starts itself only in part.

    Args:
        home: the home folder.
        tell: told which of the three it is, before a temporary one is waited for.

    Raises:
        InputError: the server does not answer or does not come up.
    """
    home = Path(home).absolute()
    (_private(home) / "prefect").mkdir(exist_ok=True)  # Prefect would complain that it cannot make it
    for name, value in {**NO_TELEMETRY, "PREFECT_HOME": str(_prefect_home(home))}.items():
        os.environ.setdefault(name, value)
    own = _prefect(home, 0)
    if url := os.environ.get("PREFECT_API_URL"):
        tell("named")
        if not any(_answers(url, attempt) for attempt in range(3)):
            raise InputError(f"Nothing answers at PREFECT_API_URL={url}; start that server, or unset the variable.")
        yield url
    elif record := _record(own):
        tell("up")
        _wait_until_healthy(own)
        with _prefect_uses(f"{record.url}/api"):
            yield f"{record.url}/api"
    else:
        tell("temporary")
        with _temporary_prefect(home) as url, _prefect_uses(url):
            try:
                yield url
            finally:
                _send_what_prefect_has_to_say()


def pages(home: Path | str) -> dict[str, str]:
    """Where a browser finds Prefect's and MLflow's pages on a home, by the tool's name; now, or after `up`."""

    def page(server: Server) -> str:
        if record := _record(server):
            return record.url
        named = os.environ.get(server.named_by, "").rstrip("/").removesuffix("/api")
        named = re.sub("(?<=//)[^/]*@", "", named)  # a name and password are nobody else's business
        return named if named.startswith("http") and _has_page(named) else server.url

    return {server.name: page(server) for server in Stack(home).servers}


def ensure_mlflow_database(uri: str, artifacts: Path | None = None) -> None:
    """Make sure that an MLflow database in SQLite exists, is of this MLflow's schema and takes readers while it writes.

    Processes that open a new database at once would ruin it, and so would a kill on the way; so one process makes it,
    under a lock and another name. Other addresses than SQLite's are left alone.

    Args:
        uri: MLflow's tracking URI.
        artifacts: where the experiment "Default" keeps its artifacts; MLflow's choice is the current folder.
    """
    if not uri.startswith("sqlite:///"):
        return
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it tells of each table, and raises the rest
    path = Path(uri.removeprefix("sqlite:///")).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            unfinished = path.with_name(f".{path.name}.new")
            unfinished.unlink(missing_ok=True)
            SqlAlchemyStore(f"sqlite:///{unfinished}", str(artifacts or path.parent / "artifacts")).engine.dispose()
            os.replace(unfinished, path)
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as database:
            database.execute("PRAGMA journal_mode=WAL")
        try:
            MlflowClient(uri)  # keeps what it finds for the next one, where a store of our own would read it twice
        except MlflowException as error:
            if "out-of-date" not in str(error):
                raise
            _upgrade_mlflow_database(uri, path)


def _upgrade_mlflow_database(uri: str, path: Path) -> None:
    copy = path.with_name(f"{path.name}.before-upgrade")
    with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "mlflow", "db", "upgrade", uri], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(
            f"The MLflow database {path} is of another version, and upgrading it failed "
            f"({_last_line(done.stderr)}); a copy from before is {copy}."
        )


# The two servers: how each is started, where it answers


class Server(NamedTuple):
    """How a server is started and found."""

    name: str
    port: int
    variable: str
    health: str
    named_by: str
    command: list[str]
    environment: dict[str, str]
    record: Path
    log: Path
    prepare: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


def _prefect(home: Path, port: int) -> Server:
    url = f"http://{LOOPBACK}:{port}"
    return Server(
        name="prefect",
        port=port,
        variable="TOKENMILL_PREFECT_PORT",
        health="/api/health",
        named_by="PREFECT_API_URL",
        command=["prefect", "server", "start", "--host", LOOPBACK, "--port", str(port), "--log-level", "WARNING"],
        environment={
            "PREFECT_HOME": str(_prefect_home(home)),
            "PREFECT_SERVER_UI_API_URL": f"{url}/api",
            # By default any page in the browser may call this server; its own UI needs no such permission.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
            # One at a time, task runs are recorded slower than tasks run, and a server that ends forgets the rest.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "64",
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        },
        record=home / ".tokenmill" / "prefect.json",
        log=home / ".tokenmill" / "logs" / "prefect.log",
    )


def _mlflow(home: Path, port: int) -> Server:
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = named if "://" in named and not named.startswith("http") else f"sqlite:///{home / 'mlruns' / 'mlflow.db'}"
    artifacts = home / "mlruns" / "artifacts"
    return Server(
        name="mlflow",
        port=port,
        variable="TOKENMILL_MLFLOW_PORT",
        health="/health",
        named_by="MLFLOW_TRACKING_URI",
        # One worker and no job runner: 4 s and 0.5 GB instead of 33 s and 2.1 GB.
        command=["mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"],
        environment={
            "MLFLOW_BACKEND_STORE_URI": uri,  # not on the command line, where everybody could read a password in it
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(artifacts),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{LOOPBACK}:{port},localhost:{port}",
        },
        record=home / ".tokenmill" / "mlflow.json",
        log=home / ".tokenmill" / "logs" / "mlflow.log",
        prepare=lambda: ensure_mlflow_database(uri, artifacts),
    )


def _private(home: Path) -> Path:
    folder = home / ".tokenmill"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{home} cannot be used ({error.strerror}); set TOKENMILL_HOME to another folder.") from None
    return folder


def _prefect_home(home: Path) -> Path:
    return home / ".tokenmill" / "prefect"


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise InputError(f"{variable}={text!r} is not a port; give a number from 1 to 65535.")
    return int(text)


# Starting and ending


def _make_way(server: Server) -> None:
    _end_orphans(server)
    if not _is_free(server.port):
        raise InputError(
            f"Port {server.port}, meant for {server.name}, is taken by another program; end that, "
            f"or choose another port with {server.variable}."
        )


def _spawn(server: Server) -> subprocess.Popen[bytes]:
    server.prepare()
    server.record.parent.mkdir(parents=True, exist_ok=True)
    with server.record.open("w") as record, _open_log(server.log) as log:
        fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the server inherits this lock and keeps it
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", *server.command],
            env=_environment(server),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[record.fileno()],
        )
        since = datetime.now(UTC).isoformat(timespec="seconds")
        json.dump({"pid": process.pid, "url": server.url, "since": since, "log": str(server.log)}, record)
    return process


def _environment(server: Server) -> dict[str, str]:
    places = {name: value for name, value in server.environment.items() if name in PLACES}
    ours = {"PYTHONSAFEPATH": "1", **places}
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return {**NO_TELEMETRY, **server.environment, **inherited, **ours}  # what a person set, but for the place


def _wait_until_healthy(server: Server, process: subprocess.Popen[bytes] | None = None) -> None:
    record = _record(server)
    until = time.monotonic() + STARTING
    while record and time.monotonic() < until:
        if _answers(record.url + server.health.removesuffix("/health")):
            return
        if process:
            process.poll()  # a dead child holds no lock, but would stay in the process table
        time.sleep(0.05)
        record = _record(server)
    what = "did not answer in time" if record else "ended while it started"
    raise InputError(f"The {server.name} server {what} ({_last_line_of(server.log)}); all of it is in {server.log}.")


def _end(pid: int, gone: Callable[[], bool]) -> None:
    """Ask a process group to end, and end it if it does not."""
    _signal_group(pid, signal.SIGTERM)
    until = time.monotonic() + STOPPING
    while not gone() and time.monotonic() < until:
        time.sleep(0.05)
    _signal_group(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)  # if it was this very process that started it


def _end_orphans(server: Server) -> None:
    """End what a server that died left behind: its group, if the group has members but no longer its first one."""
    try:
        pid = int(json.loads(server.record.read_text())["pid"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    if _record(server) or _exists(pid):
        return  # it lives, or the number now belongs to another process
    until = time.monotonic() + 5
    while _signal_group(pid, signal.SIGKILL) and time.monotonic() < until:
        time.sleep(0.05)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _signal_group(pid: int, number: int) -> bool:
    """Send a signal to a process group; whether there was one."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


# Finding


class Record(NamedTuple):
    """What a living server that `up` started wrote down about itself."""

    pid: int
    url: str
    since: datetime
    log: Path


def _record(server: Server) -> Record | None:
    """The record of a server, if the server is alive."""
    try:
        with server.record.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read_record(server, file)
    except FileNotFoundError:
        pass
    return None


def _is_dead(server: Server) -> bool:
    return _record(server) is None


def _read_record(server: Server, file: IO[str]) -> Record:
    for _ in range(50):  # the moment between taking the lock and writing the record
        file.seek(0)
        with contextlib.suppress(ValueError):
            found = json.loads(file.read())
            return Record(found["pid"], found["url"], datetime.fromisoformat(found["since"]), Path(found["log"]))
        time.sleep(0.02)
    raise InputError(f"The {server.name} server runs, but {server.record} does not say which; end it yourself.")


def _named(server: Server) -> str | None:
    """The address that the tool's own variable gives; if that is where `up` would listen, a server must be there."""
    url = os.environ.get(server.named_by, "")
    if not url.startswith("http"):
        return None
    here = url.rstrip("/").removesuffix("/api").replace("localhost", LOOPBACK) == server.url
    return None if here and not _answers(url) else url


def _status(server: Server) -> Service:
    base = server.health.removesuffix("/health")
    if record := _record(server):
        running = _answers(record.url + base)
        return Service(server.name, record.url, running, True, record.pid, record.since, record.log)
    if url := _named(server):
        return Service(server.name, url, _answers(url), False)
    return Service(server.name, server.url, False, False)


def _answers(base: str, wait: float = 0) -> bool:
    """Whether a server is there and not broken; a refusal for want of a login is an answer too."""
    time.sleep(wait)
    try:
        with _get(base.rstrip("/") + "/health"):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except (OSError, ValueError):
        return False


def _has_page(url: str) -> bool:
    """Whether there is something to look at; a temporary Prefect server has nothing."""
    try:
        with _get(url) as answer:
            return "html" in answer.headers.get("Content-Type", "")
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError):
        return False


def _get(url: str) -> Any:
    handlers = [urllib.request.ProxyHandler({})] if LOOPBACK in url else []
    return urllib.request.build_opener(*handlers).open(url, timeout=5)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


# Logs


def _open_log(path: Path) -> IO[bytes]:
    """Append to a log; one that has grown long becomes the old one first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > 5_000_000:
        os.replace(path, path.with_suffix(".old.log"))
    return path.open("ab")


def _last_line_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        return _last_line(file.read().decode(errors="replace"))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


# A Prefect server for one run


@contextlib.contextmanager
def _temporary_prefect(home: Path) -> Iterator[str]:
    log_path = home / ".tokenmill" / "logs" / "prefect-temporary.log"
    with FileLock(_private(home) / "stack.lock"):  # two servers that make the same new database at once ruin it
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            server = _prefect(home, probe.getsockname()[1])
        options = ["--no-ui", "--no-scheduler", "--no-late-runs"]
        with _open_log(log_path) as log:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, str(TETHERED), str(os.getpid()), *server.command, *options],
                env=_environment(server),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # or Ctrl-C would end it before the run has told it so
            )
        try:
            until = time.monotonic() + STARTING
            while not _answers(f"{server.url}/api"):
                if process.poll() is not None or time.monotonic() > until:
                    raise InputError(
                        f"A temporary Prefect server did not come up ({_last_line_of(log_path)}); see {log_path}."
                    )
                time.sleep(0.05)
        except BaseException:
            _end(process.pid, gone=lambda: process.poll() is not None)
            raise
    try:
        yield f"{server.url}/api"
    finally:
        _end(process.pid, gone=lambda: process.poll() is not None)


@contextlib.contextmanager
def _prefect_uses(url: str) -> Iterator[None]:
    os.environ["PREFECT_API_URL"] = url
    try:
        with contextlib.ExitStack() as stack:
            if "prefect" in sys.modules:  # it has read its settings already
                from prefect.settings import PREFECT_API_URL, temporary_settings

                stack.enter_context(temporary_settings({PREFECT_API_URL: url}))
            yield
    finally:
        del os.environ["PREFECT_API_URL"]


def _send_what_prefect_has_to_say() -> None:
    """Let Prefect's client send the events and log lines that it still holds, while there is a server to take them."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=10)
