"""The commands that carry out flows: `tokenmill run`, and one command for each step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.commands.options import Config, Rebuild, Set, current_home, naming_a_full_disk
from pipelines.store.disks import full_disk

if TYPE_CHECKING:
    from flows.home import Home
    from flows.outcome import Outcome
    from pipelines.config import RunConfig


def run(config: Config, set: Set = [], rebuild: Rebuild = False) -> None:
    """Run the whole chain: raw text to evaluated, fine-tuned models.

    Example: tokenmill run configs/quickstart.toml --set pretrain.steps=200
    """
    run_flow("run", config, set, until="evaluate", rebuild=rebuild)


def _step_command(name: str, summary: str) -> Callable[..., None]:
    def command(config: Config, set: Set = [], rebuild: Rebuild = False) -> None:
        run_flow(name, config, set, until=name, rebuild=rebuild)

    command.__name__ = name
    example = f"Example: tokenmill {name} configs/quickstart.toml"
    command.__doc__ = f"{summary}.\n\nEarlier steps run only if their results are missing. {example}"
    return command


STEPS = [
    _step_command("ingest", "Read source files into a clean corpus"),
    _step_command("tokenize", "Turn a corpus into token shards"),
    _step_command("sample", "Cut tokens into training samples"),
    _step_command("pretrain", "Train a GPT on the samples"),
    _step_command("finetune", "Fine-tune the model into classifiers and assistants"),
    _step_command("evaluate", "Evaluate every model on held-out data"),
]


def run_flow(name: str, config: Path, overrides: list[str], until: str | None = None, **parameters: Any) -> None:
    """Run a flow and print its closing table.

    Args:
        until: the last step of the flow's chain. If its result is published already, no flow starts.

    Raises:
        InputError: the config is wrong, or the disk is full.
    """
    from flows.commands.closing import closing, next_commands
    from flows.console import print_unbroken, warn
    from flows.orchestration.signals import end_on_second_signal
    from pipelines.config import load_config

    started = time.perf_counter()
    home, run = current_home(), load_config(config, overrides, warn=warn)
    outcomes = outcomes_of(home, name, run, until, parameters, end_on_second_signal)
    typer.echo()
    print_unbroken(closing(run.name, outcomes, home.path, time.perf_counter() - started))
    typer.echo()
    typer.echo(next_commands(run.name, outcomes))  # never broken to fit a width, so that people can copy it


def outcomes_of(
    home: Home,
    name: str,
    run: RunConfig,
    until: str | None,
    parameters: dict[str, Any],
    prepare: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Return the outcome of each step of a flow, which is carried out unless all of it has been made before.

    Args:
        home: the home.
        name: the flow.
        run: its config.
        until: the last step of the flow's chain. If its result is published already, no flow starts.
        parameters: the flow's other parameters.
        prepare: called before a flow starts.

    Raises:
        InputError: the disk is full, or a server does not answer.
    """
    from flows.orchestration.finished import find_finished
    from flows.orchestration.progress import hashing_bar

    if full := full_disk([home.path]):
        raise full
    if (uri := home.mlflow_uri).startswith("http"):
        from flows.servers.health import check_named

        check_named("MLFLOW_TRACKING_URI", uri)
    with hashing_bar():
        outcomes = find_finished(run, until, home) if until and not any(parameters.values()) else []
    if outcomes:
        typer.echo("All of it has been made before.", err=True)
        return outcomes
    with naming_a_full_disk(home.path):
        prepare()
        return _carry_out(home, name, run, parameters)


def _carry_out(home: Home, name: str, config: RunConfig, parameters: dict[str, Any]) -> list[Outcome]:
    """Run a flow against a Prefect server and return the outcome of each step."""
    from concurrent.futures import ThreadPoolExecutor
    from importlib import import_module

    from flows.console import say
    from flows.orchestration.signals import received
    from flows.servers.prefect_server import prefect_server
    from pipelines.store.step import Stopped

    # Prefect prints failures with tracebacks; here they become a sentence. Its server keeps the whole log.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    if "TOKENMILL_DEBUG" not in os.environ:
        os.environ.pop("PREFECT_DEBUG_MODE", None)  # prints thousands of lines, whatever the levels are

    def announce(choice: str) -> None:
        if choice == "temporary":
            say("Starting a Prefect server for this run; with `tokenmill up` there is one to use.", "dim")

    with ThreadPoolExecutor(1) as pool:
        mlflow = pool.submit(import_module, "mlflow")  # takes three seconds, in which the server starts too
        with prefect_server(home.path, announce):
            mlflow.result()
            from prefect.exceptions import CancelledRun

            from flows.flows import FLOWS
            from flows.orchestration.endings import release_liveness_locks
            from flows.tracking.outages import MLFLOW, PREFECT, finish_sending, waiting_for

            with (
                waiting_for(PREFECT, os.environ["PREFECT_API_URL"], lambda: bool(received)),
                waiting_for(MLFLOW, home.mlflow_uri, lambda: bool(received)),
            ):
                try:
                    outcomes: Any = FLOWS[name](config, **parameters)
                except CancelledRun as cancelled:
                    raise Stopped(str(cancelled)) from None
                except KeyboardInterrupt:
                    finish_sending(0.5)
                    raise
                finally:
                    finish_sending()
            release_liveness_locks()
    return outcomes
