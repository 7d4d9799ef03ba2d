"""`tokenmill doctor`: the checks of an installation, and its miniature run."""

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands import doctor, miniature
from flows.commands.miniature import run_miniature
from pipelines import proxies
from pipelines.config import load_config
from pipelines.errors import InputError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty home."""
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    return tmp_path


def quick() -> str:
    """Return what the quick checks print, after they have failed."""
    done = CliRunner().invoke(app, ["doctor", "--quick"])
    assert done.exit_code == 1, done.output
    return done.output


def test_doctor_names_what_is_open_and_how_to_close_it(home):
    for name in ("data", "mlruns"):
        (home / name).mkdir()
        (home / name).chmod(0o755)
    (home / "data").chmod(0o700)
    command = f"chmod -R go-rwx {home}/data {home}/mlruns"
    assert f"Other users may use {home}/mlruns; close the home with: {command}" in quick()
    subprocess.run(shlex.split(command), check=True)
    assert CliRunner().invoke(app, ["doctor", "--quick"]).exit_code == 0


@pytest.mark.slow
@pytest.mark.integration
def test_doctor_passes_where_tests_run_and_leaves_nothing(tmp_path):
    environment = {
        **os.environ,
        "TOKENMILL_HOME": str(tmp_path / "new" / "home"),
        "PYTHONPATH": str(ROOT),
        "all_proxy": "socks://127.0.0.1:9",
        "MLFLOW_RUN_ID": "of-another-project",
        "PREFECT_PROFILE": "of-another-project",
        "PREFECT_SERVER_API_BASE_PATH": "/of-another-project",
        "PYTHONIOENCODING": "ascii",
    }
    command = [sys.executable, "-P", "-m", "flows.cli", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "not running" in done.stdout and "vocabulary" not in done.stdout
    steps = [
        step for line in done.stderr.splitlines() if " s  " in line for step in line.partition(" s  ")[2].split()[:1]
    ]
    assert steps[:4] == ["ingest", "tokenize", "sample", "pretrain"], done.stderr
    assert "run              ingest to registry" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_wrong_version_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ["duckdb>=99", "package-of-nobody>=1"])
    assert "duckdb>=99; package-of-nobody is missing; install again with `make install`." in " ".join(
        quick().replace(" is not ", "").split()
    ).replace("duckdb 2.0.0", "duckdb")


def test_damaged_proxy_is_named(monkeypatch):
    monkeypatch.setattr(proxies, "problems", ["http_proxy names no proxy (it has no host)."])
    monkeypatch.setattr(doctor, "problems", proxies.problems)
    assert "proxies: http_proxy names no proxy (it has no host)." in quick()


def test_full_temporary_folder_is_named(monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("TMPDIR", "/srv/full")
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    monkeypatch.setattr(doctor, "_home", lambda: "")
    assert "TMPDIR=/srv/full cannot hold temporary files (No space left on device)" in quick()


def test_home_that_cannot_be_written_is_named_and_no_run_tried(monkeypatch):
    monkeypatch.setenv("TOKENMILL_HOME", "/proc/home")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "home: /proc cannot be written to" in done.output and "set TOKENMILL_HOME" in done.output
    assert "No run was tried" in done.output


def test_remote_server_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9")
    assert "servers: Nothing answers at PREFECT_API_URL=http://127.0.0.1:9/api" in quick()


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        (
            "print('   0.1 s  ingest x'); print('tokenmill: The disk is full.'); exit(2)",
            "run failed after ingest: The d",
        ),
        ("print('tokenmill: A temporary Prefect server did not come up (x); see /a/b.log.'); exit(2)", "firewall"),
        ("import module_of_nobody", "No module named 'module_of_nobody'. A package is missing or does not fit"),
        ("import os; os.kill(os.getpid(), 9)", "it was ended by SIGKILL. The memory was not enough"),
        ("import time; time.sleep(9)", "SIGTERM"),
        ("exit(3)", "run failed: it said nothing. `tokenmill --debug doctor` shows all of its output."),
    ],
)
def test_failure_of_the_miniature_run_has_its_cause_and_cure(monkeypatch, home, code, finding):
    monkeypatch.setattr(miniature, "PROGRAM", [sys.executable, "-c", code])
    monkeypatch.setattr(miniature, "PATIENCE", 0.5)
    with pytest.raises(InputError) as caught:
        run_miniature(home / "not" / "yet", lambda line: None)
    assert finding in str(caught.value)
    assert list(home.iterdir()) == []


def test_debug_shows_the_whole_output_of_the_miniature_run(monkeypatch, home):
    monkeypatch.setenv("TOKENMILL_DEBUG", "1")
    monkeypatch.setattr(miniature, "PROGRAM", [sys.executable, "-c", "1 / 0"])
    lines = []
    with pytest.raises(InputError, match="run failed: ZeroDivisionError"):
        run_miniature(home, lines.append)
    assert lines[0].startswith("Traceback")


def test_config_of_the_miniature_run_is_valid(tmp_path):
    (tmp_path / "miniature.toml").write_text(miniature.CONFIG)
    assert load_config(tmp_path / "miniature.toml").name == "miniature"


def test_miniature_run_reaches_no_lasting_data(monkeypatch, home):
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "TOKENMILL_DATA", "MLFLOW_REGISTRY_URI", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, "sentinel")
    monkeypatch.setenv("TOKENMILL_RUNNER", "dask=tcp://sentinel:8786")
    code = "import os; exit(any('sentinel' in value for value in os.environ.values()))"
    monkeypatch.setattr(miniature, "PROGRAM", [sys.executable, "-c", code])
    assert run_miniature(home, lambda line: None)
