"""The home folder and the settings of MLflow and Prefect."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import SETTINGS
from flows.home import Home
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
    with pytest.raises(InputError, match="TOKENMILL_DATA='bucket' is no address"):
        _ = Home(tmp_path).store


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
