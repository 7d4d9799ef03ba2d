"""The wheel: what is needed without a checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
from flows.schedules.deployments import load_schedules, make_deployments
from pipelines.config import SHIPPED, load_config
schedules = SHIPPED / "schedules.toml"
print(*(each.name for each in make_deployments(load_schedules(schedules), schedules)))
"""


@pytest.mark.slow
def test_wheel_brings_configs_and_schedules(tmp_path):
    source = tmp_path / "source"
    for name in ("flows", "gpt", "pipelines", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(source)]
    subprocess.run([*build, "--wheel-dir", str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "PYTHONSAFEPATH": "1"}

    def python(*arguments):
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    shown = python("-c", PROGRAM)
    assert shown.stdout == "refresh nightly-evaluation housekeeping\n", shown.stderr
    missing = python("-m", "flows.cli", "run", "configs/quickstart.toml")
    folder = missing.stderr.partition("the shipped ones are in ")[2].removesuffix(".\n")
    assert missing.returncode == 2 and Path(folder, "quickstart.toml").is_file()
