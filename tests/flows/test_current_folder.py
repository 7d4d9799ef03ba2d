"""The current folder: nothing in it is code or a setting, for us, for other packages, or for the processes we start."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.current_folder import warn_of_settings
from flows.home import Home
from flows.tracking import source

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("tokenmill")

MODULES = """
sitecustomize usercustomize conftest alembic aiosqlite sqlalchemy prefect mlflow uvicorn torch numpy duckdb pyarrow
multiprocessing socket json threading typing_extensions flows pipelines gpt matplotlib yaml
"""

LOGGING = """
version: 1
disable_existing_loggers: false
formatters:
  harmful:
    "()": os.system
    command: "touch {mark}-logging"
handlers:
  console: {{class: logging.StreamHandler, formatter: harmful}}
root: {{handlers: [console]}}
"""

SETTINGS = {
    "prefect.toml": """
        profiles_path = "profiles.toml"
        [logging]
        config_path = "logging.yml"
        [server.database]
        connection_url = "sqlite+aiosqlite:///{mark}-database"
        """,
    ".env": """
        PREFECT_LOGGING_CONFIG_PATH=logging.yml
        PREFECT_PROFILES_PATH=profiles.toml
        MLFLOW_TRACKING_URI=sqlite:///{mark}-mlflow
        """,
    "pyproject.toml": """
        [tool.prefect]
        profiles_path = "profiles.toml"
        [tool.prefect.logging]
        config_path = "logging.yml"
        """,
    "profiles.toml": """
        active = "theirs"
        [profiles.theirs]
        PREFECT_LOGGING_CONFIG_PATH = "logging.yml"
        """,
    "logging.yml": LOGGING,
    ".tokenmill/prefect/logging.yml": LOGGING,
    ".tokenmill/prefect/profiles.toml": """
        active = "theirs"
        [profiles.theirs]
        PREFECT_API_URL = "http://127.0.0.1:9/api"
        """,
    "matplotlibrc": "backend: module://torch\n",
    "gunicorn.conf.py": "open('{mark}-gunicorn', 'w')\n",
    "alembic.ini": "[alembic]\nscript_location = .\n",
    "env.py": "open('{mark}-alembic', 'w')\n",
    ".git/HEAD": "ref: refs/heads/main\n",
    ".git/config": "[core]\n\trepositoryformatversion = 0\n\tfsmonitor = touch {mark}-git; false\n",
    # An editable installation adds a folder of this name to sys.path, relative to the current one.
    "__editable__.tokenmill-0.2.0.finder.__path_hook__/theirs-1.dist-info/entry_points.txt": (
        "[torch.backends]\ntheirs = nowhere:run\n[prefect.collections]\ntheirs = nowhere\n"
    ),
}


@pytest.fixture
def hostile(tmp_path):
    """A folder with every file that some program would take for its own, and the start of the names of its marks."""
    folder, mark = tmp_path / "received", tmp_path / "mark"
    for name, text in SETTINGS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        lines = text.format(mark=mark) if "{mark}" in text else text
        (folder / name).write_text("\n".join(line.removeprefix(" " * 8) for line in lines.splitlines()) + "\n")
    for name in MODULES.split():
        (folder / f"{name}.py").write_text(f"open('{mark}-{name}', 'w')\nraise RuntimeError('imported from here')\n")
    with (folder / ".env").open("ab") as file:
        file.write(b"\xff\n")  # whoever reads it all the same, fails
    (folder / ".git" / "objects").mkdir()
    (folder / ".git" / "refs").mkdir()
    (folder / "texts").mkdir()
    return folder, mark


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "TOKENMILL_", "PYTHON"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def marks(mark):
    return sorted(path.name for path in mark.parent.glob(f"{mark.name}*"))


SHOW = """
import flows.cli
from prefect.settings import get_current_settings, temporary_settings, PREFECT_API_URL
import mlflow, prefect, prefect.main
for settings in (get_current_settings(), temporary_settings({PREFECT_API_URL: "http://x/api"}).__enter__()):
    print(settings.logging.config_path, settings.logging.level, settings.profiles_path)
"""


def test_prefect_reads_settings_from_the_environment_alone(hostile):
    folder, mark = hostile
    variables = environment(PREFECT_LOGGING_LEVEL="ERROR", PREFECT_HOME=str(mark.parent / "own"), PYTHONSAFEPATH="1")
    done = subprocess.run([sys.executable, "-c", SHOW], cwd=folder, env=variables, capture_output=True, text=True)
    own = mark.parent / "own"
    assert done.stdout.splitlines() == [f"{own / 'logging.yml'} ERROR {own / 'profiles.toml'}"] * 2, done.stderr
    assert marks(mark) == []


def test_sentence_names_the_files_that_are_left_aside(hostile, capsys):
    folder, _ = hostile
    warn_of_settings(folder)
    sentence = (
        "! prefect.toml and .env and pyproject.toml in the current folder have settings of Prefect and are left aside; "
        "put what you need of them into environment variables.\n"
    )
    assert capsys.readouterr().err == sentence


def test_files_without_settings_of_prefect_are_not_mentioned(tmp_path, capsys):
    (tmp_path / ".env").write_text("DATABASE=x\n")
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["prefect"]\n')
    warn_of_settings(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[[" * 100_000)
    (tmp_path / ".env").unlink()
    os.mkfifo(tmp_path / ".env")
    warn_of_settings(tmp_path)
    assert capsys.readouterr().err == ""


def test_repository_above_the_code_is_not_asked(tmp_path, monkeypatch):
    mark, code = tmp_path / "mark", tmp_path / "received" / "venv" / "flows" / "tracking"
    code.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path / "received"), "-c", "user.name=x", "-c", "user.email=x@x"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    subprocess.run([*git, "config", "core.fsmonitor", f"touch {mark}; false"], check=True)
    monkeypatch.setattr(source, "__file__", str(code / "source.py"))
    assert source.code_revision.__wrapped__() == ""
    assert not mark.exists()


def test_module_started_by_name_imports_nothing_from_here(tmp_path):
    (tmp_path / "duckdb.py").write_text(f"open('{tmp_path}/mark', 'w')")
    command = [sys.executable, "-m", "tokenmill", "sql", "select 1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mark").exists()


CONFIG = """
name = "given"
[[ingest.sources]]
uri = "texts/*.txt"
[tokenize]
encoding = "bpe"
vocabulary = 300
[sample]
context = 16
stride = 16
[pretrain]
steps = 2
batch_size = 4
processes = 2
accumulation = 2
prompts = []
[pretrain.model]
size = "pico"
"""


@pytest.mark.slow
def test_no_command_executes_what_is_in_the_current_folder(hostile):
    folder, mark = hostile
    for number in range(40):
        (folder / "texts" / f"{number}.txt").write_text(f"Some words about {number}, enough for a document. " * 40)
    (folder / "run.toml").write_text(CONFIG)
    (folder / "schedules.toml").write_text('[tidy]\nflow = "housekeeping"\ninterval = 5\n')
    ports = {f"TOKENMILL_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW")}
    variables = environment(**ports)

    def tokenmill(*arguments, **more):
        command = [str(PROGRAM), *arguments]
        done = subprocess.run(
            command, cwd=folder, env=variables | more, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stderr
        assert marks(mark) == [], arguments
        return done

    tokenmill("--help")
    ingested = tokenmill("ingest", "run.toml", TOKENMILL_RUNNER="processes=2")  # with a server of its own
    assert ingested.stderr.count("are left aside") == 1
    try:
        assert "are left aside" in tokenmill("up").stderr
        tokenmill("pretrain", "run.toml")
        assert "2" in tokenmill("sql", "select 1 + 1").stdout
        with (mark.parent / "schedule.log").open("w") as log:
            serving = subprocess.Popen(
                [str(PROGRAM), "schedule", "schedules.toml"], cwd=folder, env=variables, stderr=log
            )
        wait_for(lambda: "Finished in state Completed" in (mark.parent / "schedule.log").read_text(), serving)
        serving.terminate()
        assert serving.wait(60) == 0
    finally:
        tokenmill("down")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler")
def test_compiled_code_is_in_the_home_alone(tmp_path):
    cache = Home(tmp_path).compiled
    program = "import flows, torch; torch.compile(lambda x: x.sin() + 1)(torch.ones(9))"
    variables = environment(TMPDIR=str(tmp_path), TORCHINDUCTOR_CACHE_DIR=str(cache))
    subprocess.run([sys.executable, "-c", program], env=variables, check=True)
    assert any(cache.iterdir())
    assert not list(tmp_path.glob("torchinductor*"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, process):
    until = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.2)
