"""`mlflow models serve` generates text and classifies texts with the chain's models."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.tracking.logged_model import PACKAGES


def test_mlflow_serves_a_language_model_and_a_classifier(
    finished: tuple[Any, Any], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    place, _ = finished
    environment = place.environment | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{place.home}/mlruns/mlflow.db",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # MLflow looks for uvicorn there
    }
    ports = {name: free_port() for name in ("tiny", "tiny-sort")}
    servers = {
        name: subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{name}@champion",
             "--host", "127.0.0.1", "--port", str(port), "--env-manager", "local"],
            env=environment, stdout=(tmp_path / name).open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        )
        for name, port in ports.items()
    }  # fmt: skip
    try:
        for name, port in ports.items():
            wait_until_up(port, servers[name], tmp_path / name)
        texts = {"dataframe_split": {"columns": ["text"], "data": [["The statement"], ["In the beginning"]]}}
        generated = ask(ports["tiny"], texts | {"params": {"max_new_tokens": 4, "temperature": 0.0}})
        assert [list(each) for each in generated] == [["text"], ["text"]] and any(each["text"] for each in generated)
        assert generated == ask(ports["tiny"], texts | {"params": {"max_new_tokens": 4, "temperature": 0.0}})
        classified = ask(ports["tiny-sort"], {"dataframe_records": [{"text": "x = f(1)"}, {"text": "hello"}]})
        assert {each["label"] for each in classified} <= {"code", "prose"}
        assert all(0.5 <= each["probability"] <= 1 for each in classified)
        with pytest.raises(urllib.error.HTTPError) as rejected:
            ask(ports["tiny-sort"], {"dataframe_records": [{"txet": "hello"}]})
        assert rejected.value.code == 400
    finally:
        for server in servers.values():
            os.killpg(server.pid, signal.SIGTERM)
        for server in servers.values():
            server.wait(30)


def wait_until_up(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 240
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                return
        except OSError:
            assert server.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.2)


def ask(port: int, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        predictions: list[dict[str, Any]] = json.load(answer)["predictions"]
        return predictions


def test_served_model_requires_the_packages_that_its_code_imports() -> None:
    loaded = (
        "import sys, pipelines.models.language_model; "
        "print(*(module.__file__ for name, module in sys.modules.items() if name in sys.argv[1:]))"
    )
    ours = [
        path.with_suffix("").as_posix().replace("/", ".")
        for package in ("gpt", "pipelines")
        for path in Path(package).rglob("*.py")
    ]
    files = subprocess.run([sys.executable, "-c", loaded, *ours], capture_output=True, text=True, check=True).stdout
    imported: set[str] = set()
    for file in files.split():
        for node in ast.parse(Path(file).read_text()).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert {"torch", "tiktoken"} <= imported
    assert imported - sys.stdlib_module_names - {"gpt", "pipelines", "pydantic_core"} <= set(PACKAGES)
