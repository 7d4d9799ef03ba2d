"""The image and the compose file, as far as a machine without a Docker daemon can check them.

The commands of the services run here as processes, with the environment of the compose file and a PostgreSQL server in
place of the container `db`. The image itself is not built.
"""

import contextlib
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from postgres_server import PASSWORD, connection

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "tokenmill"}
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())


def filled(text: str, **variables: str) -> str:
    """Return a text of the compose file with the values of variables, or else their defaults."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: variables.get(match[1], match[2]), text)


def test_compose_file_publishes_only_on_this_machine_and_holds_no_password() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [filled(port) for port in published] == ["127.0.0.1:4200:4200", "127.0.0.1:5000:5000"]
    text = (ROOT / "compose.yaml").read_text()
    assert not re.search(r"PASSWORD: |://\w+:[^/]*@|host\b.*network|privileged: true|docker\.sock", text)
    assert COMPOSE["secrets"] == {"db_password": {"file": "./db_password"}}
    for ignored in (".gitignore", ".dockerignore"):
        lines = (ROOT / ignored).read_text().splitlines()
        assert "db_password" in lines or "*" in lines, "a password gets neither into a commit nor into the image"


def test_compose_file_names_what_is_there() -> None:
    assert set(OURS) == {"servers", "schedule", "mill"}
    for name, service in OURS.items():
        beside = [service.get("network_mode"), service.get("pid")]
        assert beside == ([None, None] if name == "servers" else ["service:servers"] * 2)
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    for service in SERVICES.values():
        assert set(service["secrets"]) <= set(COMPOSE["secrets"]) and set(service.get("depends_on", {})) <= set(
            SERVICES
        )
        mounts = [filled(volume).split(":")[0] for volume in service["volumes"]]
        assert all(
            (ROOT / mount).exists() if mount.startswith(".") else mount in COMPOSE["volumes"] for mount in mounts
        )
    build = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert set(SERVICES["servers"]["build"]["args"]) <= build


def test_image_takes_what_exists_and_runs_as_a_user_of_its_own() -> None:
    assert re.search(r"^FROM python:3\.11-slim$", DOCKERFILE, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.MULTILINE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "download.pytorch.org/whl/cpu" in DOCKERFILE and "+cu" not in DOCKERFILE
    steps = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    assert [word for word, _ in steps].index("USER") < [word for word, _ in steps].index("ENTRYPOINT")
    assert ["USER", "mill"] in steps and ["VOLUME", "/mill"] in steps
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {name.rstrip("*") for name in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
                ["packages"]["find"]["include"]}  # fmt: skip
    assert sent >= packages | {"docker", "constraints.txt", "pyproject.toml", "README.md", "LICENSE"}
    assert not sent & {".", "data", "mlruns", "db_password", ".git"}


@pytest.fixture
def container(
    tmp_path_factory: pytest.TempPathFactory, place: Any, postgres: str, free_port: Callable[[], int]
) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """container(SERVICE, WORDS ...) runs the command of a service as its container would."""
    outside = tmp_path_factory.mktemp("outside")
    program = outside / "tokenmill"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m flows.cli "$@"\n')
    program.chmod(0o755)
    (outside / "password").write_text(f"{PASSWORD}\n")
    ports = {f"TOKENMILL_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW")}
    address = postgres.rpartition("@")[2]
    places = {"/run/secrets/db_password": str(outside / "password"), "@db/": f"@{address}/"}
    started: list[subprocess.Popen[str]] = []

    def run(name: str, *words: str) -> "subprocess.Popen[str]":
        environment = place.environment | {"PYTHONPATH": str(ROOT)}
        environment["PATH"] = f"{outside}:{environment['PATH']}"
        for key, value in SERVICES[name]["environment"].items():
            environment[key] = filled(value, **ports)
            for theirs, here in places.items():
                environment[key] = environment[key].replace(theirs, here)
        command = words or [filled(word) for word in SERVICES[name]["command"]]
        if command[0] == "CMD":  # the check of a service's health
            command = [sys.executable if word == "python" else word for word in command[1:]]
        else:
            command = ["sh", str(ROOT / "docker" / "entrypoint.sh"), *command]
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(command, cwd=place.home, env=environment, **options)
        started.append(process)
        return process

    yield run
    for process in reversed(started):
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait(60)


def lines_until(process: "subprocess.Popen[str]", sentence: str) -> str:
    """Return the output of a process up to the line that holds a sentence."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if sentence in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


@pytest.mark.slow
def test_services_run_on_postgresql_with_the_password_of_a_file(
    container: Callable[..., "subprocess.Popen[str]"], postgres: str, place: Any
) -> None:
    (place.home / "configs").mkdir()
    tidy = '[tidy]\nflow = "housekeeping"\nparameters = { checkpoint_days = 30, keep_days = 90 }\n'
    (place.home / "configs" / "schedules.toml").write_text(tidy)
    servers = container("servers")
    shown = lines_until(servers, "network that you trust")
    assert "http://localhost:" in shown and "plain HTTP" in shown
    check = SERVICES["servers"]["healthcheck"]["test"]
    assert 0 in (container("servers", *check).wait(60) for _ in range(5)), "Docker too asks more than once"
    schedule = container("schedule")
    assert "Serving tidy of configs/schedules.toml" in lines_until(schedule, "Serving")
    with contextlib.closing(connection(f"postgresql://{postgres}/prefect")) as database:
        cursor = database.cursor()
        cursor.execute("SELECT name FROM deployment")
        assert cursor.fetchall() == [("tidy",)]
    counted, _ = container("mill", "sql", "select count(*) as n from runs", "--format", "csv").communicate(timeout=120)
    assert counted.split() == ["n", "0"]
    assert not [path for path in place.home.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    for process in (schedule, servers):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert container("servers", *check).wait(60) == 1, "no server is left"
