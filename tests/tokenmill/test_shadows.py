"""The import of the package: fast, and one sentence if another package has the name of one of ours."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(folder, *arguments, path=""):
    environment = {**os.environ, "PYTHONPATH": f"{path}{ROOT}"}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_shadowed_package_is_named_in_one_sentence(tmp_path):
    theirs = tmp_path / "flows"
    theirs.mkdir()
    (theirs / "__init__.py").touch()
    sentence = f"Python imports 'flows' from {theirs / '__init__.py'} in place of tokenmill's own;"
    imported = python(tmp_path, "-c", "import tokenmill")
    assert f"ImportError: {sentence}" in imported.stderr.splitlines()[-1]
    command = tmp_path / "tokenmill"  # as pip writes it
    command.write_text("from tokenmill.__main__ import main\nmain()\n")
    for arguments in (["-m", "tokenmill", "--version"], [str(command), "--version"]):
        done = python(tmp_path, *arguments, path=f".{os.pathsep}")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith(f"tokenmill: {sentence}")
    assert python(tmp_path, "-P", "-c", "import tokenmill").returncode == 0


def test_import_brings_no_slow_package(tmp_path):
    slow = "{'torch', 'numpy', 'pandas', 'pyarrow', 'duckdb', 'prefect', 'mlflow', 'pydantic', 'typer'}"
    done = python(tmp_path, "-P", "-c", f"import sys, tokenmill; print({slow} & sys.modules.keys())")
    assert done.stdout == "set()\n", done.stderr
