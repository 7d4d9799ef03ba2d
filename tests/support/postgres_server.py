"""A PostgreSQL server with a password, for tests of teams and containers."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "sesame-4711-opens"  # tests search for it in files and databases


def program(name: str) -> str | None:
    """Return the path of a program of PostgreSQL. Debian installs them outside the search path."""
    here = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(here[-1]) if here else None)


@contextlib.contextmanager
def running_postgres(port: int, databases: Sequence[str] = ("prefect", "mlflow")) -> Iterator[str]:
    """Run a PostgreSQL server with some databases, and yield `user:password@host:port`."""
    initdb, server = program("initdb"), program("postgres")
    if not initdb or not server:
        pytest.skip("PostgreSQL is not installed; `apt-get install postgresql` brings it")
    folder = Path(tempfile.mkdtemp(prefix="tokenmill-postgres-", dir="/tmp"))
    (folder / "password").write_text(PASSWORD)
    options: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        nobody = pwd.getpwnam("nobody")
        options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for path in (folder, folder / "password"):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    setup = ["--username=mill", f"--pwfile={folder}/password", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
    subprocess.run([initdb, "--pgdata", folder / "data", "--no-locale", *setup], check=True, **options)
    settings = ["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-k", str(folder), "-p", str(port)]
    process = subprocess.Popen([server, "-D", folder / "data", *settings], **options)
    try:
        base = f"mill:{PASSWORD}@127.0.0.1:{port}"
        with contextlib.closing(connection(f"postgresql://{base}/postgres", process)) as admin:
            admin.autocommit = True
            for name in databases:
                admin.cursor().execute(f"CREATE DATABASE {name}")
        yield base
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def connection(address: str, server: "subprocess.Popen[bytes] | None" = None) -> Any:
    psycopg2 = pytest.importorskip("psycopg2", reason="the extra `postgres` is not installed")
    for _ in range(300):
        try:
            return psycopg2.connect(address)
        except psycopg2.OperationalError:
            assert server is None or server.poll() is None, "PostgreSQL did not start"
            time.sleep(0.1)
    raise AssertionError("PostgreSQL does not answer")
