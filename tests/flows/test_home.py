"""The home folder and the settings of MLflow and Prefect."""

import base64
import os
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from flows import SETTINGS
from flows.home import Home
from pipelines.catalog.registry import registered
from pipelines.errors import InputError

ROOT = Path(__file__).parents[2]


def test_home_is_read_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    before = dict(os.environ)
    home = Home.from_environment()
    assert home == Home(tmp_path) and home.mlflow_uri == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.delenv("TOKENMILL_HOME")
    monkeypatch.chdir(tmp_path)
    assert Home.from_environment() == home
    assert os.environ == {name: value for name, value in before.items() if name != "TOKENMILL_HOME"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert home.mlflow_uri == "http://mlflow:5000"


def test_paths_and_addresses_that_cannot_be_used_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path / "what?"))
    with pytest.raises(InputError, match="has a question mark in its path"):
        Home.from_environment()
    monkeypatch.setenv("TOKENMILL_DATA", "bucket")
    with pytest.raises(InputError, match="TOKENMILL_DATA is no address"):
        _ = Home(tmp_path).store


@pytest.mark.parametrize("name", ["TOKENMILL_DATA", "TOKENMILL_HOME", "MLFLOW_DEFAULT_ARTIFACT_ROOT"])
@pytest.mark.parametrize(
    "address", ["memory://u:SENTINEL@bucket/p", "https://SENTINEL@host/p", "s3://bucket/p?token=SENTINEL"]
)
def test_stored_address_with_a_secret_is_refused(monkeypatch, name, address):
    monkeypatch.setenv(name, address)
    with pytest.raises(InputError, match=rf"{name} carries a password or a token.*variables") as caught:
        Home.from_environment()
    assert "SENTINEL" not in str(caught.value)


def test_password_of_a_server_moves_to_the_variables_of_its_client(monkeypatch, tmp_path, serve):
    received = []

    class Guarded(BaseHTTPRequestHandler):
        """An MLflow server without models, behind a login."""

        def do_GET(self):
            received.append(self.headers["Authorization"])
            body = b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    host = f"127.0.0.1:{serve(Guarded).server_port}"
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://u:SENTI%2FNEL@{host}")
    monkeypatch.setenv("PREFECT_API_URL", f"http://v:SENTINEL@{host}/api")
    home = Home.from_environment()
    assert home.mlflow_uri == f"http://{host}" and os.environ["PREFECT_API_URL"] == f"http://{host}/api"
    assert os.environ["PREFECT_API_AUTH_STRING"] == "v:SENTINEL"
    assert registered(home.mlflow_uri) == []
    assert set(received) == {"Basic " + base64.b64encode(b"u:SENTI/NEL").decode()}


def test_unknown_tracking_address_with_a_secret_is_refused(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "what://u:SENTINEL@host/")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI names no server or database") as caught:
        Home.from_environment()
    assert "SENTINEL" not in str(caught.value)


def test_settings_are_made_before_anything_is_imported():
    code = (
        "import os, sys, flows; print({name: os.environ.get(name) for name in flows.SETTINGS}, 'mlflow' in sys.modules)"
    )
    others = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment = {**others, "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "false"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == f"{SETTINGS | {'DO_NOT_TRACK': 'false'}} False", "a setting of the user's is kept"


def test_folder_for_compiled_code_is_its_owners_alone(tmp_path):
    home = Home(tmp_path)
    folder = home.compiled
    assert folder == home.compiled and folder.stat().st_mode & 0o777 == 0o700
    other = tmp_path / "copy"
    shutil.copytree(tmp_path / ".tokenmill", other / ".tokenmill")
    assert Home(other).compiled.name != folder.name, "a copied home brings no code"
    folder.chmod(0o770)
    with pytest.raises(InputError, match="Others than you can write to"):
        _ = home.compiled
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(InputError, match="Others than you can write to"):
        _ = home.compiled
