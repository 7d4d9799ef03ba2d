"""`tokenmill doctor`: the checks of an installation."""

import shlex
import subprocess

from typer.testing import CliRunner

from flows.cli import app


def test_doctor_names_what_is_open_and_how_to_close_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    for name in ("data", "mlruns"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
    (tmp_path / "data").chmod(0o700)
    done = CliRunner().invoke(app, ["doctor"])
    command = f"chmod -R go-rwx {tmp_path}/data {tmp_path}/mlruns"
    assert (
        done.exit_code == 1 and f"Other users may use {tmp_path}/mlruns; close the home with: {command}" in done.output
    )
    subprocess.run(shlex.split(command), check=True)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_doctor_passes_where_tests_run(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    assert "not running" in done.output and "vocabulary" not in done.output
