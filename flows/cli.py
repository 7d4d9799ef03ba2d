"""The command line. Each command imports what it needs when it runs, so that help comes at once."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.errors import InputError

if TYPE_CHECKING:
    from flows.outcome import Outcome
    from pipelines.config import RunConfig

app = typer.Typer(
    name="tokenmill",
    help="Turns text that you own into a GPT that you own.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
datasets = typer.Typer(help="Published datasets and models.", no_args_is_help=True)
app.add_typer(datasets, name="datasets", rich_help_panel="Data")

Config = Annotated[Path, typer.Argument(help="The run's TOML file, such as configs/quickstart.toml.")]
Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a value: --set pretrain.steps=100")
]
Rebuild = Annotated[bool, typer.Option(help="Run every step again and put its result in the old one's place.")]
Model = Annotated[
    str,
    typer.Option(help="NAME (its champion), NAME@ALIAS, NAME/VERSION, NAME@FINGERPRINT or model/NAME (the newest)."),
]
Pins = Annotated[
    list[str], typer.Option("--dataset", help="Pin a version, such as tokens@FINGERPRINT. May be repeated.")
]


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tokenmill {version('tokenmill')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option(help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Its version.")
    ] = False,
) -> None:
    if debug:
        os.environ["TOKENMILL_DEBUG"] = "1"


# Runs


def _run_flow(flow: str, config: Path, overrides: list[str], until: str | None = None, **parameters: Any) -> None:
    """Carry out a flow; one that goes through the chain `until` some step only if there is something to do."""
    from rich.console import Console

    from flows.commands.closing import closing, next_commands
    from flows.home import Home
    from flows.orchestration.finished import find_finished
    from pipelines.config import load_config

    if full := _full_disk():
        raise full
    started = time.perf_counter()
    home, run = Home.from_environment(), load_config(config, overrides)
    outcomes = find_finished(run, until, home) if until and not any(parameters.values()) else []
    if outcomes:
        typer.echo("All of it has been made before.", err=True)
    else:
        outcomes = _carry_out(home.path, flow, run, parameters)
    Console().print(closing(run.name, outcomes, home.path, time.perf_counter() - started))
    for line in next_commands(run.name, outcomes):  # to be copied, so never broken to fit a width
        typer.echo(line)


def _carry_out(home: Path, flow: str, config: RunConfig, parameters: dict[str, Any]) -> list[Outcome]:
    """Run a flow against a Prefect server; returns what came of each step."""
    from concurrent.futures import ThreadPoolExecutor
    from importlib import import_module

    from flows.console import say
    from flows.servers.prefect_server import prefect_server
    from pipelines.store.step import Stopped

    # Prefect prints failures with tracebacks; here they become a sentence. Its server keeps the whole log.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")

    def tell(choice: str) -> None:
        if choice == "temporary":
            say("Starting a Prefect server for this run; with `tokenmill up` there is one to use.", "dim")

    with ThreadPoolExecutor(1) as pool:
        warm = pool.submit(import_module, "mlflow")  # three seconds in which the server starts too
        with prefect_server(home, tell):
            warm.result()
            from prefect.exceptions import CancelledRun

            from flows.flows import FLOWS
            from flows.orchestration.endings import release_liveness_locks

            try:
                outcomes: Any = FLOWS[flow](config, **parameters)
            except CancelledRun as cancelled:
                raise Stopped(str(cancelled)) from None
            release_liveness_locks()
    return outcomes


@app.command(rich_help_panel="Runs")
def run(config: Config, set: Set = [], rebuild: Rebuild = False) -> None:  # noqa: B006
    """Carry out the whole chain: raw text to evaluated, fine-tuned models.

    Example: tokenmill run configs/quickstart.toml --set pretrain.steps=200
    """
    _run_flow("run", config, set, until="evaluate", rebuild=rebuild)


def _step_command(name: str, what: str) -> None:
    def command(config: Config, set: Set = [], rebuild: Rebuild = False) -> None:  # noqa: B006
        _run_flow(name, config, set, until=name, rebuild=rebuild)

    example = f"Example: tokenmill {name} configs/quickstart.toml"
    command.__doc__ = f"{what}.\n\nThe steps before it run as far as their results are missing. {example}"
    app.command(name, rich_help_panel="Runs")(command)


for _name, _what in {
    "ingest": "Read source files into a clean corpus",
    "tokenize": "Turn a corpus into token shards",
    "sample": "Cut tokens into training samples",
    "pretrain": "Train a GPT on the samples",
    "finetune": "Make classifiers and assistants of it",
    "evaluate": "Judge every model on held-out data",
}.items():
    _step_command(_name, _what)


# Data


@datasets.command("ls")
def datasets_ls(
    kind: Annotated[str | None, typer.Argument(help="Only these: corpus, tokens, model, ...")] = None,
) -> None:
    """List what is published, oldest first.

    Example: tokenmill datasets ls tokens
    """
    from flows.home import Home
    from pipelines.numbers import counts, short

    found = [dataset.manifest for dataset in Home.from_environment().store.list(kind)]
    if not found:
        typer.echo(
            f"Nothing published{f' of kind {kind}' if kind else ''} yet; try `tokenmill run configs/quickstart.toml`."
        )
        return
    rows = [("kind", "name", "fingerprint", "bytes", "built", "what it holds")]
    for m in found:
        built = m.built["at"][:16].replace("T", " ")
        rows.append((m.kind, m.name, m.fingerprint[:12], short(m.bytes), built, counts(m.statistics, 4)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # A line each, cut off where the terminal ends; a pipe gets all of it. Rich would take a second for a thousand.
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows:
        cells = [
            cell.rjust(w) if i == 3 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip()[:columns])


@datasets.command("show")
def datasets_show(dataset: Annotated[str, typer.Argument(help="NAME, KIND/NAME or a fingerprint.")]) -> None:
    """Show one dataset's manifest: how it was made, and what it holds.

    Example: tokenmill datasets show tokens/quickstart
    """
    from rich.console import Console

    from flows.home import Home

    found = Home.from_environment().store.open(dataset)
    typer.echo(f"{found}  {found.address}", err=True)
    Console().print_json(found.manifest.model_dump_json())


@datasets.command("verify")
def datasets_verify(
    dataset: Annotated[str | None, typer.Argument(help="Which one; by default all.")] = None,
) -> None:
    """Compare every byte with the checksums taken when it was published. Exit code 1 if something is wrong.

    Example: tokenmill datasets verify
    """
    from flows.home import Home

    store = Home.from_environment().store
    chosen = [store.open(dataset)] if dataset else store.list()
    damaged = 0
    for each in chosen:
        problems = store.verify(each)
        damaged += bool(problems)
        for problem in problems:
            typer.echo(f"{each}: {problem}")
    typer.echo(f"{len(chosen) - damaged} of {len(chosen)} datasets are as they were published.")
    if damaged:
        raise typer.Exit(1)


@datasets.command("gc")
def datasets_gc(
    keep_days: Annotated[
        float | None,
        typer.Option(min=0, help="Also delete datasets that nothing needs and that were not used for so many days."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say which datasets would be deleted.")] = False,
) -> None:
    """Delete what dead runs left behind: unfinished folders, and checkpoints of steps that are published.

    Example: tokenmill datasets gc --keep-days 30 --dry-run
    """
    from flows.home import Home

    home = Home.from_environment()
    store = home.store
    swept, files = store.sweep(), store.sweep_bucket()
    typer.echo(f"Deleted {len(swept)} leftover folders{f' and {files} files in {store.address}' if files else ''}.")
    if keep_days is not None:
        from flows.orchestration.housekeeping import size, tidy

        removed = tidy(home, keep_days, dry_run)
        for dataset in removed:
            typer.echo(f"  {dataset}")
        typer.echo(f"{'Would delete' if dry_run else 'Deleted'} {len(removed)} datasets, {size(removed)}.")


@datasets.command("diff")
def datasets_diff(
    a: Annotated[str, typer.Argument(help="The older version.")],
    b: Annotated[str, typer.Argument(help="The newer version, of the same kind.")],
    page: Annotated[Path | None, typer.Option("--html", help="Also write the comparison as an HTML page.")] = None,
) -> None:
    """Tell what changed between two versions: documents, tokens, rejections.

    Example: tokenmill datasets diff corpus@01b94c72 corpus
    """
    from flows.commands.diff import diff
    from flows.home import Home

    diff(a, b, Home.from_environment().store, page)


@datasets.command("export")
def datasets_export(
    target: Annotated[Path, typer.Argument(help="The DuckDB file to write, such as catalog.duckdb.")],
    dataset: Pins = [],  # noqa: B006
    copy: Annotated[bool, typer.Option(help="Copy the texts into the file, so that it stands alone.")] = False,
) -> None:
    """Write the catalog as a DuckDB file, for tools that speak no Python.

    Example: tokenmill datasets export catalog.duckdb
    """
    from flows.home import Home
    from pipelines.catalog.export import export_catalog

    home = Home.from_environment()
    rows = export_catalog(home.store, target, home.mlflow_uri, dataset, copy)
    for table, n in rows.items():
        typer.echo(f"{n:>12,}  {table}")


@app.command(rich_help_panel="Data")
def trace(
    what: Annotated[str, typer.Argument(help="A dataset, a model, a source file, or the id of a document.")],
    page: Annotated[
        Path | None, typer.Option("--html", help="Also write the lineage as a graph in an HTML page.")
    ] = None,
) -> None:
    """Tell where something came from, and what came of it.

    Example: tokenmill trace model/quickstart
    """
    from flows.commands.trace import trace as draw_trace
    from flows.home import Home

    draw_trace(what, Home.from_environment().store, page)


@app.command(rich_help_panel="Data")
def report(
    what: Annotated[str, typer.Argument(help="A run, or any dataset or model.")] = "quickstart",
    output: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
    open: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Show the page about a run: its data, training and results. Of a dataset that is in no report, draw one.

    Example: tokenmill report quickstart
    """
    from flows.commands.report import find_or_draw
    from flows.home import Home

    page = find_or_draw(what, Home.from_environment().store, output)
    typer.echo(page)
    if open:
        typer.launch(page.as_uri())


@app.command(rich_help_panel="Data")
def sql(
    query: Annotated[str | None, typer.Argument(help="The query; without one, a shell opens.")] = None,
    command: Annotated[str | None, typer.Option("-c", metavar="QUERY", help="The query, as an option.")] = None,
    file: Annotated[Path | None, typer.Option(help="Read the query from a file.")] = None,
    format: Annotated[
        Format | None, typer.Option(help="How to write the result; by default a table, or as the output's name says.")
    ] = None,
    dataset: Pins = [],  # noqa: B006
    output: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    external_access: Annotated[bool, typer.Option(help="Let queries read and write other files.")] = False,
) -> None:
    """Ask DuckDB about every dataset: documents, tokens, vocabulary, samples, runs, metrics and more.

    Example: tokenmill sql "select split, count(*) from documents group by split"
    """
    from flows.commands.sql import run_sql
    from flows.home import Home

    run_sql(
        query if query is not None else command,
        file=file,
        format=format,
        datasets=dataset,
        home=Home.from_environment(),
        output=output,
        external_access=external_access,
    )


# Models


@app.command(rich_help_panel="Models")
def generate(
    prompt: Annotated[str, typer.Argument(help="What the model goes on from.")] = "",
    model: Model = "quickstart",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation, in tokens.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 takes the likeliest token; above, tokens are drawn.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among the k likeliest tokens; 0 draws among all.")] = 50,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest that reach this probability.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
) -> None:
    """Let a model go on writing.

    Example: tokenmill generate "In the beginning" --model quickstart
    """
    from flows.tracking.registry import find_model
    from pipelines.models.language_model import open_gpt

    language_model = open_gpt(find_model(model).path)
    typer.echo(prompt, nl=False)
    try:
        for piece in language_model.stream(prompt, max_new_tokens, temperature, top_k or None, top_p, seed):
            typer.echo(piece, nl=False)
            sys.stdout.flush()
    except ValueError as error:
        raise InputError(f"{error}.") from None
    typer.echo()


@app.command(rich_help_panel="Models")
def classify(
    text: Annotated[str | None, typer.Argument(help="The text; without one, lines from standard input.")] = None,
    model: Model = "quickstart-spam",
    file: Annotated[Path | None, typer.Option(help="Read texts from a file, one a line.")] = None,
    all: Annotated[
        bool, typer.Option("--all", help="Write every label's probability, not the best one's alone.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Write JSON Lines.")] = False,
) -> None:
    """Name the class of a text, or of each line: label, probability and text, separated by tabs.

    Example: tokenmill classify "You have won £500! Call 09050001808" --model quickstart-spam
    """
    from flows.commands.classify import classify_texts

    classify_texts(model, text, file, every=all, as_json=json)


@app.command(rich_help_panel="Models")
def chat(
    model: Model = "quickstart-assistant",
    temperature: Annotated[
        float, typer.Option(min=0, help="0 takes the likeliest token; above, tokens are drawn.")
    ] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 120,
    system: Annotated[str, typer.Option(help="A system prompt, above the conversation.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same answers.")] = 0,
) -> None:
    """Talk to an assistant. In the conversation, /help shows what to type; lines of a pipe are answered in turn.

    Example: tokenmill chat --model quickstart-assistant
    """
    from flows.commands.chat import Settings
    from flows.commands.chat import chat as talk

    talk(model, Settings(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed), system)


@app.command(rich_help_panel="Models")
def compare(
    models: Annotated[list[str], typer.Argument(help="Two models or more; the others are tested against the first.")],
    significance: Annotated[float, typer.Option(min=0, max=1, help="Largest p-value that counts.")] = 0.05,
) -> None:
    """Compare models that were evaluated on the same items: metrics with intervals, and what is more than luck.

    Example: tokenmill compare quickstart/1 quickstart/2
    """
    from flows.commands.compare import compare_models

    compare_models(models, significance)


@app.command("models", rich_help_panel="Models")
def list_models(name: Annotated[str | None, typer.Argument(help="Only this model's versions.")] = None) -> None:
    """List the registered models: versions, aliases, metric, and what was decided about each, and why.

    Example: tokenmill models quickstart
    """
    from rich.console import Console

    from flows.commands.models import models_table
    from flows.home import Home

    Console().print(models_table(Home.from_environment(), name))


@app.command(rich_help_panel="Models")
def promote(
    what: Annotated[str, typer.Argument(help="NAME/VERSION, or a run's TOML file: then the gate decides.")],
    reason: Annotated[str, typer.Option(help="Why; it is written down with the model.")] = "no reason given",
    again: Annotated[bool, typer.Option(help="Let the gate decide again about what was decided before.")] = False,
    set: Set = [],  # noqa: B006
) -> None:
    """Make a version the champion by hand; or hold a run's newest models against their champions once more.

    Example: tokenmill promote quickstart/2 --reason "reads better"
    """
    from flows.home import Home
    from flows.tracking.registry import promote_by_hand

    if what.endswith(".toml"):
        _run_flow("promote", Path(what), set, again=again)
    else:
        typer.echo(promote_by_hand(Home.from_environment(), what, reason))


@app.command(rich_help_panel="Models")
def reevaluate(config: Config, set: Set = []) -> None:  # noqa: B006
    """Judge champions and challengers on a run's held-out data as it is today; trains nothing.

    Example: tokenmill reevaluate configs/quickstart.toml
    """
    _run_flow("reevaluate", config, set)


@app.command(rich_help_panel="Models")
def rollback(
    name: Annotated[str, typer.Argument(help="The name of a registered model.")],
    reason: Annotated[str, typer.Option(help="Why; it is written down with the model.")] = "no reason given",
) -> None:
    """Give the champion's place back to the champion before; again, to the one before that.

    Example: tokenmill rollback quickstart --reason "writes nonsense"
    """
    from flows.home import Home
    from flows.tracking.registry import roll_back

    typer.echo(roll_back(Home.from_environment(), name, reason))


# The local stack


def _show_services(services: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("server", "address", "state", "pid", "since", "log"):
        table.add_column(column, overflow="fold", no_wrap=column == "address")
    for service in services:
        since = service.since.astimezone().strftime("%Y-%m-%d %H:%M") if service.since else ""
        state = "[green]running[/]" if service.running else "[dim]not running[/]"
        log = os.path.relpath(service.log) if service.log else ""
        table.add_row(service.name, service.url, state, str(service.pid or ""), since, log)
    Console().print(table)


def _stack() -> Any:
    from flows.home import Home
    from flows.servers.stack import Stack

    return Stack(Home.from_environment().path)


@app.command(rich_help_panel="Servers")
def up() -> None:
    """Start a Prefect server and the MLflow UI on this machine, in the background.

    Example: tokenmill up
    """
    _show_services(_stack().up())


@app.command(rich_help_panel="Servers")
def down() -> None:
    """End the servers that `up` started.

    Example: tokenmill down
    """
    ended = _stack().down()
    typer.echo(f"Ended {', '.join(service.name for service in ended)}." if ended else "Nothing was running.")


@app.command(rich_help_panel="Servers")
def status() -> None:
    """Tell which servers run, where, and since when.

    Example: tokenmill status
    """
    _show_services(_stack().status())


@app.command(rich_help_panel="Servers")
def serve(
    schedules: Annotated[Path, typer.Argument(help="A TOML file of deployments.")] = Path("configs/schedules.toml"),
) -> None:
    """Serve scheduled deployments until Ctrl-C: flows that start when they are due, or from Prefect's UI.

    Example: tokenmill serve configs/schedules.toml
    """
    from flows.home import Home
    from flows.schedules import serve as serve_schedules

    serve_schedules(schedules, Home.from_environment().path)


@app.command(rich_help_panel="Servers")
def doctor() -> None:
    """Check that everything that a run needs is here. Exit code 1 if something is not.

    Example: tokenmill doctor
    """
    from flows.commands.doctor import examine

    if not examine():
        raise typer.Exit(1)


def main() -> None:
    """Run a command. Bad input is one sentence and exit code 2; a failed run is one sentence and exit code 1."""
    # Imports make a million objects that stay; to look through them for garbage again and again takes a second.
    gc.set_threshold(50_000)
    with _one_sentence():
        app()


@contextmanager
def _one_sentence() -> Iterator[None]:
    from pipelines.store.step import Stopped

    try:
        yield
    except InputError as error:
        _fail(error, 2)
    except (Stopped, KeyboardInterrupt) as error:
        from flows.orchestration.signals import exit_code

        _fail(error, exit_code())
    except Exception as error:
        cause = _input_error_behind(error) or _full_disk()
        _fail(cause or error, 2 if cause else 1)


def _input_error_behind(error: BaseException) -> InputError | None:
    """What went wrong first, if something else did while that was told: a full disk takes no last word of MLflow's."""
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return behind if isinstance(behind, InputError) else _input_error_behind(behind) if behind else None


def _full_disk() -> InputError | None:
    """Where there is no room, servers and databases fail too, each in its own words."""
    home = Path(os.environ.get("TOKENMILL_HOME") or ".").resolve()
    if not home.exists() or shutil.disk_usage(home).free > 1_000_000:
        return None
    return InputError(f"The disk is full where {home} lies; free some space and run again.")


def _fail(error: BaseException, code: int) -> None:
    if "TOKENMILL_DEBUG" in os.environ:
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    hint = "" if isinstance(error, InputError) or code > 100 else f" ({type(error).__name__}; --debug shows where.)"
    typer.echo(f"tokenmill: {text}{hint}", err=True)
    traceback.clear_frames(error.__traceback__)  # Prefect keeps the error, and DuckDB tells of connections left behind
    sys.exit(code)


if __name__ == "__main__":
    main()
