"""The wheel: what a new environment can do into which nothing else was installed."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import page
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SCHEDULES = """
from flows.schedules.deployments import load_schedules, make_deployments
from pipelines.config import find_config
schedules = find_config("configs/schedules.toml")
print(*(each.name for each in make_deployments(load_schedules(schedules), schedules)))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The programs of a new environment: the wheel, and what the wheel asks for, linked from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("flows", "gpt", "pipelines", "tokenmill"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, str(folder / "source"), "--wheel-dir", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "environment")], check=True)
    programs = folder / "environment" / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (info,) = folder.glob("environment/lib/python*/site-packages/tokenmill-*.dist-info")
    link_requirements(metadata.Distribution.at(info), info.parent)
    return programs


def link_requirements(of, site, extras=("",), done=None):
    """Link what a distribution asks for, and what that asks for, into the packages of an environment."""
    done = set() if done is None else done
    for asked in map(Requirement, of.requires or ()):
        needed = not asked.marker or any(asked.marker.evaluate({"extra": extra}) for extra in extras)
        key = asked.name, *sorted(asked.extras)
        if not needed or key in done:
            continue
        done.add(key)
        found = metadata.distribution(asked.name)
        assert found.version in asked.specifier, asked
        for name in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(found.locate_file(name))
        link_requirements(found, site, (*asked.extras, ""), done)


@pytest.fixture
def execute(environment, tmp_path):
    """execute(PROGRAM, arguments ...) runs a program of the environment in an empty home."""
    ours = ("PYTHON", "PREFECT_", "MLFLOW_", "TOKENMILL_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(ours)}

    def execute_program(program, *arguments):
        command = [environment / program, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)

    return execute_program


def test_description_of_the_package_has_no_links_into_the_source():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.findall(r"\]\((?!https?:)[^)]*\)|<img|^\[.*\]:", (ROOT / project["readme"]).read_text()) == []


@pytest.mark.slow
@pytest.mark.integration
def test_python_page_runs_where_only_the_wheel_is_installed(execute, tmp_path):
    shutil.copy(page.PYTHON, tmp_path)
    shutil.copy(page.__file__, tmp_path)
    done = execute("python", "page.py", "python.md")
    other_trainers = 2
    assert done.stdout == f"{len(page.blocks(page.PYTHON)) - other_trainers}\n", done.stderr


@pytest.mark.slow
@pytest.mark.integration
def test_wheel_brings_types_configs_and_schedules(execute, environment):
    typed = environment.parent.glob("lib/python*/site-packages/*/py.typed")
    assert {"flows", "gpt", "pipelines", "tokenmill"} <= {path.parent.name for path in typed}
    shown = execute("python", "-c", SCHEDULES)
    assert shown.stdout == "refresh nightly-evaluation housekeeping\n", shown.stderr
    for name in ("quickstart", "configs/quickstart.toml"):
        listed = execute("tokenmill", "run", name, "--dry-run", "--set", "name=tried")
        assert listed.returncode in (0, 2) and "config file" not in listed.stderr, listed.stderr
    missing = execute("python", "-m", "tokenmill", "run", "nothing.toml")
    folder = missing.stderr.partition("the shipped ones are in ")[2].removesuffix(".\n")
    assert missing.returncode == 2 and Path(folder, "quickstart.toml").is_file()
