"""The commands that carry out flows: `tokenmill run`, and one command for each step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from flows.commands.options import Config, Rebuild, Set, current_home, naming_a_full_disk
from pipelines.store.disks import full_disk

if TYPE_CHECKING:
    from rich.table import Table

    from flows.home import Home
    from flows.label import Label
    from flows.outcome import Outcome
    from pipelines.config import RunConfig
    from pipelines.new_data import NewDataRun


Name = Annotated[
    str, Option(help="Name of the run in MLflow and Prefect; by default what differs from the run before.")
]
Note = Annotated[str, Option(help="Text for the run's description, in Markdown.")]
Tags = Annotated[list[str], Option("--tag", metavar="TAG", help="A word, or KEY=VALUE, to find the run by.")]
NoPromote = Annotated[bool, Option("--no-promote", help="Leave every champion as it is.")]
DryRun = Annotated[
    bool, Option("--dry-run", help="List the steps, what is reused, how long and how big; make nothing.")
]


def run(
    config: Config,
    set: Set = [],
    name: Name = "",
    note: Note = "",
    tag: Tags = [],
    no_promote: NoPromote = False,
    rebuild: Rebuild = False,
    dry_run: DryRun = False,
) -> None:
    """Run the whole chain: raw text to evaluated, fine-tuned models.

    Example: tokenmill run configs/quickstart.toml --set pretrain.steps=200
    """
    from flows.label import make_label

    label = make_label(name, note, tag, set)
    run_flow("run", config, label, "evaluate", promote=not no_promote, dry_run=dry_run, rebuild=rebuild)


def _step_command(step: str, summary: str) -> Callable[..., None]:
    def command(
        config: Config,
        set: Set = [],
        name: Name = "",
        note: Note = "",
        tag: Tags = [],
        rebuild: Rebuild = False,
        dry_run: DryRun = False,
    ) -> None:
        from flows.label import make_label

        run_flow(step, config, make_label(name, note, tag, set), step, dry_run=dry_run, rebuild=rebuild)

    command.__name__ = step
    example = f"Example: tokenmill {step} configs/quickstart.toml"
    command.__doc__ = f"{summary}.\n\nEarlier steps run only if their results are missing. {example}"
    return command


STEPS = [
    _step_command("ingest", "Read source files into a clean corpus"),
    _step_command("tokenize", "Turn a corpus into token shards"),
    _step_command("sample", "Cut tokens into training samples"),
    _step_command("pretrain", "Train a GPT on the samples"),
    _step_command("finetune", "Fine-tune the model into classifiers and assistants"),
]


def run_flow(
    name: str,
    config: Path,
    label: Label,
    until: str | None = None,
    *,
    promote: bool = True,
    dry_run: bool = False,
    **parameters: Any,
) -> None:
    """Run a flow and print its closing table.

    Args:
        name: of the flow.
        config: the run's TOML file.
        label: what a person says about the run, and what `--set` changes in the file.
        until: the last step of the flow's chain. If its result is published already, no flow starts.
        promote: whether a better model becomes the champion, if the config agrees.
        dry_run: only list the steps.
        parameters: further ones of the flow.

    Raises:
        InputError: the config is wrong, something that it names is missing, or the disk is full.
    """
    from flows.commands.closing import closing, next_commands
    from flows.console import warn
    from flows.orchestration.finished import MADE_BEFORE
    from pipelines.config import load_config

    started = time.perf_counter()
    never = [] if promote else ["promote.enabled=false"]
    home, run = current_home(), load_config(config, [*label.overrides, *never], warn=warn)
    if dry_run:
        from flows.commands.dry_run import show_dry_run

        return show_dry_run(run, until or "evaluate", home, rebuild=bool(parameters.get("rebuild")))
    outcomes = made_before(home, run, until, label.is_given or any(parameters.values()))
    if outcomes:
        typer.echo(MADE_BEFORE, err=True)
        _show(closing(run.name, outcomes, home.path, time.perf_counter() - started))
    else:
        outcomes = _carry_out_and_show(home, name, run, label if until else None, parameters, started)
    typer.echo(next_commands(run, outcomes))  # never broken to fit a width, so that people can copy it


def _carry_out_and_show(
    home: Home, name: str, run: RunConfig, label: Label | None, parameters: dict[str, Any], started: float
) -> list[Outcome]:
    """Run a flow, print what it made, even if it fails in the middle, and return the outcomes."""
    from flows.commands.closing import closing, differences
    from flows.orchestration.signals import end_on_second_signal
    from flows.outcome import outcomes_so_far
    from flows.tracking.earlier import distinguish
    from pipelines.store.step import Stopped

    title, about = run.name, list[str]()
    if label:
        parameters["label"] = label
        found = distinguish(home, run, label)
        title = found.title
        about = differences(label.overrides, found.before.name if found.before else "", found.changed)
    end_on_second_signal()
    try:
        with naming_a_full_disk(home.path):
            outcomes = carry_out(home, name, run, parameters)
    except Exception as error:
        how = "was stopped" if isinstance(error, Stopped) else "failed"
        if made := outcomes_so_far():
            _show(closing(title, made, home.path, time.perf_counter() - started, how), about)
        raise
    _show(closing(title, outcomes, home.path, time.perf_counter() - started), about)
    return outcomes


def made_before(home: Home, run: RunConfig, until: str | None, asked: bool) -> list[Outcome]:
    """Return the outcomes of a run of which nothing is left to do; else check what it needs, and return none.

    Args:
        home: the home.
        run: the run's config.
        until: the last step of the flow's chain; None if the flow has none.
        asked: somebody asks for a new run in any case.

    Raises:
        InputError: something that the run names is missing, a server does not answer, or the disk is full.
    """
    from flows.orchestration.finished import find_finished
    from flows.orchestration.progress import hashing_bar
    from flows.orchestration.warm_start import find_base
    from pipelines.preflight import check_outside

    if full := full_disk([home.path]):
        raise full
    if (uri := home.mlflow_uri).startswith("http"):
        from flows.servers.health import check_named

        check_named("MLFLOW_TRACKING_URI", uri)
    with hashing_bar():
        if until and not asked and (outcomes := find_finished(run, until, home)):
            return outcomes
    check_outside(run, until or "evaluate")
    find_base(run, until or "evaluate", home, lambda sentence: None)
    return []


def _show(table: Table, lines: Sequence[str] = ()) -> None:
    from flows.console import print_unbroken

    typer.echo()
    print_unbroken(table)
    typer.echo()
    for line in lines:
        typer.echo(line)
    if lines:
        typer.echo()


def carry_out(home: Home, name: str, config: RunConfig | NewDataRun, parameters: dict[str, Any]) -> list[Outcome]:
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
