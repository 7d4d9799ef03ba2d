"""The environment as people set it."""

import os
from pathlib import Path

import pytest

from flows.environment import complete_variables
from pipelines.errors import InputError


@pytest.fixture(autouse=True)
def restored(monkeypatch, tmp_path):
    """Restore the variables, and go to an empty folder."""
    for name in ("TOKENMILL_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "HOME", "USER"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://host:4200", "http://host:4200/api"),
        ("https://host/", "https://host/api"),
        ("http://host:4200/api/", "http://host:4200/api"),
        ("127.0.0.1:4200", "http://127.0.0.1:4200/api"),
        ("localhost:4200/api", "http://localhost:4200/api"),
        ("https://host/some/where/api", "https://host/some/where/api"),
    ],
)
def test_address_of_prefect_is_completed(monkeypatch, given, read):
    monkeypatch.setenv("PREFECT_API_URL", given)
    complete_variables()
    assert os.environ["PREFECT_API_URL"] == read


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://host:5000/#/experiments/1", "http://host:5000"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("sqlite:///runs/mlflow.db", "sqlite:///{here}/runs/mlflow.db"),
        ("sqlite:///~/mlflow.db?timeout=9", "sqlite:////home/ada/mlflow.db?timeout=9"),
        ("postgresql+psycopg2://host/db", "postgresql+psycopg2://host/db"),
    ],
)
def test_address_of_mlflow_is_completed(monkeypatch, given, read):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    complete_variables()
    assert os.environ["MLFLOW_TRACKING_URI"] == read.format(here=Path.cwd())


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PREFECT_API_URL", "prefect", "PREFECT_API_URL is no address of a Prefect server"),
        ("MLFLOW_TRACKING_URI", "mlruns", "it is http://HOST:PORT, sqlite:////FOLDER/mlflow.db"),
        ("MLFLOW_TRACKING_URI", "file:///srv/mlruns", "names no server or database"),
        ("MLFLOW_TRACKING_URI", "/srv/mlflow.db", "sqlite:////srv/mlflow.db or the like"),
        ("MLFLOW_TRACKING_URI", "sqlite://mlflow.db", "names no server or database"),
        ("MLFLOW_TRACKING_URI", "sqlite:///:memory:", "names no server or database"),
        ("TOKENMILL_HOME", "s3://bucket/home", "TOKENMILL_DATA stores the data in a bucket"),
        ("TOKENMILL_HOME", "~nobody-of-this-name/home", "nobody knows the home folder"),
    ],
)
def test_what_cannot_be_used_is_named(monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=sentence):
        complete_variables()


@pytest.mark.parametrize(("given", "read"), [("~/mill", "/home/ada/mill"), ("mill", "{here}/mill")])
def test_home_is_the_same_for_children_elsewhere(monkeypatch, given, read):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("TOKENMILL_HOME", given)
    home = complete_variables()
    assert str(home) == os.environ["TOKENMILL_HOME"] == read.format(here=Path.cwd())


def test_deleted_current_folder_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="The current folder was deleted"):
        complete_variables()
    monkeypatch.chdir(tmp_path)


def test_user_unknown_to_the_system_gets_a_name_and_a_folder(monkeypatch, tmp_path):
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    complete_variables()
    assert os.environ["HOME"] == str(tmp_path / ".tokenmill" / "user")
    assert os.environ["USER"] == f"user-{os.getuid()}"
