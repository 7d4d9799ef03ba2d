"""`tokenmill doctor`: the checks of an installation."""

from typer.testing import CliRunner

from flows.cli import app


def test_doctor_passes_where_tests_run(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    assert "not running" in done.output and "vocabulary" not in done.output
