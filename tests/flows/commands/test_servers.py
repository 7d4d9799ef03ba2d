"""The commands about servers and schedules."""

from pathlib import Path

from typer.testing import CliRunner

from flows.cli import app
from flows.schedules import deployments


def test_serve_still_serves_schedules_and_names_its_successor(monkeypatch, tmp_path):
    served = []
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    monkeypatch.setattr(deployments, "serve", lambda *arguments: served.append(arguments))
    new, old = (CliRunner().invoke(app, [name, "x.toml"]) for name in ("schedule", "serve"))
    assert new.exit_code == old.exit_code == 0 and new.stderr == new.stdout == old.stdout == ""
    assert "`tokenmill schedule`" in old.stderr and old.stderr.count("\n") == 1
    assert served == [(Path("x.toml"), tmp_path)] * 2
