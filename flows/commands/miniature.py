"""The miniature run of `tokenmill doctor`: a chain as people run it, in a temporary home that is deleted afterwards.

Its commands are processes with the environment of this one: proxies, locale, temporary folder, packages, Prefect's and
MLflow's variables. Only what leads to lasting or remote data is left out. `doctor` checks such addresses by reading.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import InputError
from pipelines.store.paths import nearest_existing

PROGRAM = [sys.executable, "-P", "-m", "flows.cli"]
PATIENCE = 300.0  # seconds for one command
STEP_DONE = re.compile(r" *\d+\.\d s  ([\w-]+) ")  # the beginning of the line about a finished step

LEFT_OUT = re.compile(
    "TOKENMILL_(HOME|DATA)|PREFECT_API_(URL|KEY|DATABASE_.*)|PREFECT_SERVER_DATABASE_.*|"
    "MLFLOW_(TRACKING_URI|REGISTRY_URI|REGISTRY_STORE_URI|BACKEND_STORE_URI|DEFAULT_ARTIFACT_ROOT|ARTIFACTS_DESTINATION)"
)
"""Variables that lead to lasting or remote data."""

CONFIG = """
name = "miniature"
[ingest]
split = { validation = 0.2, test = 0.2 }
[[ingest.sources]]
uri = "texts.jsonl"
[tokenize]
encoding = "characters"
[sample]
context = 16
[pretrain]
steps = 2
batch_size = 4
[pretrain.model]
layers = 1
heads = 1
width = 16
"""
TEXTS = "".join(
    f'{{"text": "Text {n} of those that a very small model reads, for this is only a try."}}\n' for n in range(60)
)

COMMANDS = {"run": ["run", "miniature.toml"], "sql": ["sql", "select count(*) from tokens"], "registry": ["models"]}
"""What is tried, by the name that a finding has: Prefect, PyTorch and MLflow, then DuckDB, then MLflow's registry."""

CURES = {
    "No module named|cannot import name|has no attribute|unexpected keyword|PackageNotFound": (
        "A package is missing or does not fit the others; install again with `make install`."
    ),
    "did not come up|Failed to reach API|Connect(ion)?Error|Connection refused|Network is unreachable": (
        "A run starts a server on 127.0.0.1; see that no firewall, sandbox or proxy keeps programs from this address."
    ),
    "database is locked|disk I/O error|locking protocol|No locks available": (
        "This file system does not lock files, as many network file systems; set TOKENMILL_HOME to a local disk."
    ),
    "Too many open files": "Raise the limit with: ulimit -n 4096",
    "SIGKILL|MemoryError|not enough memory|Cannot allocate": "The memory was not enough; a run needs some 2 GB.",
    "SIGILL": "PyTorch was built for another processor; install another build of it.",
}
"""What to do, by what the output of a failure contains."""


def run_miniature(home: Path, on_line: Callable[[str], None]) -> str:
    """Carry out the commands in a new folder on the disk of a home; return what was tried.

    Args:
        home: the home folder, which need not exist.
        on_line: called with each line that shows progress.

    Raises:
        InputError: a command failed; it says after which step, why, and what to do.
    """
    with _temporary_home(home) as folder:
        (folder / "miniature.toml").write_text(CONFIG, encoding="utf-8")
        (folder / "texts.jsonl").write_text(TEXTS, encoding="utf-8")
        for name, arguments in COMMANDS.items():
            _run(name, arguments, folder, on_line)
    return "ingest to registry, through Prefect, PyTorch, MLflow and DuckDB"


@contextmanager
def _temporary_home(home: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".tokenmill-doctor-", dir=nearest_existing(home)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(name: str, arguments: list[str], folder: Path, on_line: Callable[[str], None]) -> None:
    kept = {name: value for name, value in os.environ.items() if not LEFT_OUT.fullmatch(name)}
    if ":" in kept.get("TOKENMILL_RUNNER", ""):  # a cluster
        del kept["TOKENMILL_RUNNER"]
    lines: list[str] = []
    with subprocess.Popen(  # noqa: S603 - our own command
        [*PROGRAM, *arguments],
        cwd=folder,
        env={**kept, "TOKENMILL_HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        deadline = threading.Timer(PATIENCE, process.terminate)
        deadline.start()
        try:
            assert process.stdout
            for line in process.stdout:
                lines.append(line.strip())
                if "TOKENMILL_DEBUG" in kept or STEP_DONE.match(line):
                    on_line(line.strip())
        finally:
            deadline.cancel()
            process.terminate()  # for Ctrl-C; it has ended otherwise
    if process.returncode:
        raise InputError(_finding(name, lines, process.returncode, folder))


def _finding(name: str, lines: list[str], code: int, folder: Path) -> str:
    """Return what failed, why, and what to do."""
    done = [match[1] for line in lines if (match := STEP_DONE.match(line))]
    said = next((line for line in reversed(lines) if line.startswith("tokenmill: ")), "")
    why = said.removeprefix("tokenmill: ") or (lines or ["it said nothing"])[-1]
    if code < 0:
        why = f"it was ended by {signal.Signals(-code).name}"
    if code == 128 + signal.SIGTERM:
        why = f"it did not end within {PATIENCE:.0f} s; {why}"
    text = re.sub(r"; see \S+\.log\.", ".", why).replace(str(folder), "HOME")
    cure = next((cure for pattern, cure in CURES.items() if re.search(pattern, why + "\n".join(lines[-30:]))), "")
    place = f"{name} failed after {done[-1]}" if done else f"{name} failed"
    return f"{place}: {text.rstrip('.')}. {cure or '`tokenmill --debug doctor` shows all of its output.'}"
