"""The command line: help with an example for each command, one sentence for each error, exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import typer
from typer.testing import CliRunner

from flows import cli
from flows.cli import app, main
from flows.commands import datasets
from flows.orchestration import signals
from pipelines.errors import InputError, ServerAway
from pipelines.store import disks
from pipelines.store.step import Stopped

INTERRUPT = """
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
"""
"""Presses Ctrl-C when a module is imported."""


def every_command() -> list[str]:
    top = [info.name or info.callback.__name__ for info in app.registered_commands]
    return top + [f"datasets {info.name or info.callback.__name__}" for info in datasets.app.registered_commands]


def test_every_documented_command_exists():
    documented = "run ingest tokenize sample pretrain finetune evaluate sql generate chat classify trace up down status"
    assert {*documented.split(), "schedule", "serve", "doctor"} <= set(every_command())
    assert {f"datasets {name}" for name in ("ls", "show", "diff", "verify", "gc")} <= set(every_command())


def test_first_error_is_the_one_that_is_shown(capsys):
    with pytest.raises(SystemExit) as ended, cli._one_sentence():
        try:
            raise InputError("the disk is full")
        finally:
            try:
                raise OSError("no space")
            except OSError as error:
                raise RuntimeError("the database cannot write that the disk is full") from error
    assert ended.value.code == 2 and capsys.readouterr().err == "tokenmill: the disk is full\n"


@pytest.mark.parametrize("command", every_command())
def test_help_shows_an_example(command):
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0 and f"Example: tokenmill {command}" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("The file is not there."), 2, "tokenmill: The file is not there."),
        (ServerAway("MLflow does not answer."), 143, "tokenmill: MLflow does not answer."),
        (Stopped("stopped before pretrain x"), 143, "tokenmill: stopped before pretrain x"),
        (KeyboardInterrupt(), 143, "tokenmill: KeyboardInterrupt"),
    ],
)
def test_error_is_one_sentence_with_its_exit_code(error, code, sentence, monkeypatch, capsys):
    def fail() -> None:
        raise error

    monkeypatch.delenv("TOKENMILL_DEBUG", raising=False)
    monkeypatch.setattr(signals, "received", [signals.signal.SIGTERM])
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == code
    assert capsys.readouterr().err.strip() == sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("two\nlines"), "tokenmill: two lines (RuntimeError; --debug shows where.)"),
        (ServerAway("MLflow does not answer."), "tokenmill: MLflow does not answer."),
    ],
)
def test_failure_is_one_sentence(error, sentence, monkeypatch, capsys):
    def fail() -> None:
        raise error

    monkeypatch.delenv("TOKENMILL_DEBUG", raising=False)
    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 1 and capsys.readouterr().err.strip() == sentence


def test_any_failure_on_a_full_disk_is_bad_input(monkeypatch, capsys, tmp_path):
    def fail() -> None:
        raise RuntimeError("Server error '500 Internal Server Error'")

    monkeypatch.delenv("TOKENMILL_DEBUG", raising=False)
    monkeypatch.setenv("TOKENMILL_HOME", str(tmp_path))
    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(disks, "ROOM", 2**80)
    with pytest.raises(SystemExit) as exit:
        cli.main()
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith(f"tokenmill: The disk is full where {tmp_path} lies; free some space")


def test_debug_shows_the_traceback_without_secrets(monkeypatch, capsys):
    broken = typer.Typer()

    @broken.command()
    def fail() -> None:
        try:
            raise OSError("http://u:SENTINEL@host/")
        except OSError as error:
            raise RuntimeError("here") from error

    monkeypatch.setenv("TOKENMILL_DEBUG", "1")
    monkeypatch.setattr(cli, "app", lambda: broken([], standalone_mode=False))
    with pytest.raises(SystemExit) as exit:
        cli.main()
    shown = capsys.readouterr().err
    assert exit.value.code == 1 and "in fail" in shown and "here" in shown and "SENTINEL" not in shown


def test_help_imports_nothing_heavy():
    heavy = "torch mlflow prefect duckdb pyarrow pandas numpy sklearn matplotlib jinja2 pipelines.config"
    code = (
        "import sys, flows.cli; flows.cli.app(['--help'], standalone_mode=False); "
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "classify" in done.stdout


def test_version_is_shown():
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and re.fullmatch(r"tokenmill \d+\.\d+.*", done.output.strip())


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Restore what `main` sets for a whole process."""
    monkeypatch.setenv("PYTHONWARNINGS", "")
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)


@pytest.mark.parametrize("module", ["gpt", "pipelines.store.step", "flows.commands.run"])
def test_ctrl_c_while_it_imports_is_one_line(module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT.format(module=module))
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    command = [sys.executable, "-P", "-m", "flows.cli", "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "tokenmill: interrupted\n")


def test_ctrl_c_during_a_command_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tokenmill", "status"])
    monkeypatch.setattr("flows.commands.servers.current_home", mock.Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "tokenmill: interrupted\n")


def test_paths_of_the_command_line_may_begin_with_a_tilde(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TOKENMILL_HOME", "~/mill")
    (tmp_path / "query.sql").write_text("select 1 as one")
    monkeypatch.setattr("sys.argv", ["tokenmill", "sql", "--file=~/query.sql", "--output=~/out.csv"])
    with pytest.raises(SystemExit):
        main()
    assert (tmp_path / "out.csv").read_text() == "one\n1\n"


@pytest.mark.parametrize(
    ("variables", "is_shown"), [({"PYTHONWARNINGS": "error"}, False), ({"TOKENMILL_DEBUG": "1"}, True)]
)
def test_warnings_of_packages_stay_off_the_terminal(variables, is_shown, tmp_path):
    code = "import sys, warnings; from flows import cli; sys.argv[1:] = ['warn']; "
    code += "cli.app.command('warn')(lambda: warnings.warn('sentinel')); cli.main()"
    environment = {**os.environ, **variables, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, "sentinel" in done.stderr) == (0, is_shown)
