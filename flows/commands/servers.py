"""The commands about the local servers, and the one that serves schedules."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from flows.commands.options import current_home, naming_a_full_disk
from flows.terminal import results
from pipelines.errors import InputError
from pipelines.visible import one_line

Host = Annotated[
    str | None, Option(metavar="ADDRESS", help="Listen at this address too; 0.0.0.0 is all. Needs --allow-host.")
]
AllowHost = Annotated[
    list[str], Option(metavar="NAME", help="A name by which others reach this machine. May be repeated.")
]
Foreground = Annotated[bool, Option("--foreground", help="Stay until Ctrl-C, then end the servers.")]

if TYPE_CHECKING:
    from flows.servers.stack import Service, Stack

Schedules = Annotated[
    Path | None, Argument(help="A TOML file of deployments; by default configs/schedules.toml, or the shipped one.")
]


def up(host: Host = None, allow_host: AllowHost = [], foreground: Foreground = False) -> None:
    """Start a Prefect server and the MLflow UI on this machine, in the background; print links to their pages.

    Example: tokenmill up, or for other machines: tokenmill up --host 0.0.0.0 --allow-host mill.example.org
    """
    from flows.current_folder import warn_of_settings

    warn_of_settings()
    stack = _stack(host, allow_host)
    if not foreground:
        _up(stack)
        return
    from flows.orchestration.signals import stop_on_signals

    with stop_on_signals() as is_asked:
        services = _up(stack)
        try:
            ended = stack.wait(services, is_asked)
        finally:
            stack.down()
    if ended:
        raise InputError(f"The {ended.name} server ended by itself; see {ended.log}.")


def _up(stack: Stack) -> Sequence[Service]:
    with naming_a_full_disk(current_home().path):
        services = stack.up()
    _print_services(services)
    if links := stack.links():
        typer.echo("\nOpen their pages with these links, which are yours alone and work for ten minutes:")
        typer.echo("".join(f"  {link}\n" for link in links), nl=False)
    if any(service.reach.is_open for service in services):
        from flows.console import warn

        warn(
            "Other machines reach these servers over plain HTTP, which others on the network can read, the secret too: "
            "put a proxy with TLS in front, or use a network that you trust."
        )
    return services


def down() -> None:
    """Stop the servers that `up` started.

    Example: tokenmill down
    """
    ended = _stack().down()
    typer.echo(f"Ended {', '.join(service.name for service in ended)}." if ended else "Nothing was running.")


def status() -> None:
    """Show which servers run, where, and since when.

    Example: tokenmill status
    """
    _print_services(_stack().status())


def env() -> None:
    """Print variables with which `prefect`, `mlflow` and notebooks use the servers that `up` started.

    Example: tokenmill env, or in a shell: eval "$(tokenmill env)"
    """
    import shlex

    stack = _stack()
    variables = stack.environment()
    for server in stack.servers:
        if server.named_by not in variables:
            typer.echo(f"The {server.name} server does not run here; `tokenmill up` starts it.", err=True)
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    print("".join(lines), end="", file=results())


def schedule(schedules: Schedules = None) -> None:
    """Serve scheduled deployments until Ctrl-C: flows that start at their times, or from Prefect's UI.

    Example: tokenmill schedule configs/schedules.toml
    """
    from flows.schedules.deployments import serve
    from pipelines.config import find_config

    serve(find_config(schedules or "configs/schedules.toml"), current_home().path)


def serve(schedules: Schedules = None) -> None:
    """Do the same as `tokenmill schedule`, the new name of this command.

    Example: tokenmill serve configs/schedules.toml
    """
    typer.echo("The new name is `tokenmill schedule`; a later version will serve models with `serve`.", err=True)
    schedule(schedules)


def _stack(host: str | None = None, allow_host: Sequence[str] = ()) -> Stack:
    from flows.servers.health import LOOPBACK
    from flows.servers.reach import parse_reach
    from flows.servers.stack import Stack

    asked = parse_reach(host or LOOPBACK, allow_host) if host or allow_host else None
    return Stack(current_home().path, reach=asked)


def _print_services(services: Sequence[Service]) -> None:
    from rich.table import Table
    from rich.text import Text

    from flows.console import print_unbroken

    table = Table(box=None, pad_edge=False)
    for column in ("server", "address", "state", "pid", "since"):
        table.add_column(column, no_wrap=True)
    for service in services:
        since = service.since.astimezone().strftime("%Y-%m-%d %H:%M") if service.since else ""
        state = Text("running", "green") if service.running else Text("not running", "dim")
        table.add_row(service.name, service.url, state, str(service.pid or ""), since)
    print_unbroken(table)
    if logs := [os.path.relpath(service.log) for service in services if service.log]:
        typer.echo(one_line(f"Logs: {'  '.join(logs)}"))
