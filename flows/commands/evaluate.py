"""`tokenmill evaluate`: every model of a run on its held-out data, or one published model on data that is new."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from flows.commands import completion
from flows.commands.options import Model, Rebuild, Set, current_home
from flows.commands.run import DryRun, Name, NoPromote, Note, Tags, run_flow
from pipelines.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from flows.home import Home
    from flows.label import Label
    from flows.outcome import Outcome
    from pipelines.new_data import NewDataRun
    from pipelines.store.dataset import Dataset

LONGEST = 40  # bytes of a metric, of which a label or a source may be a part


def evaluate(
    config: Annotated[
        Path | None,
        Argument(help="The run's TOML file, such as configs/quickstart.toml.", autocompletion=completion.configs),
    ] = None,
    model: Model = None,
    data: Annotated[
        str | None, Option(metavar="FILE", help="Score a model on this file, folder or address instead.")
    ] = None,
    label: Annotated[str | None, Option(metavar="COLUMN", help="Its column of labels; by default guessed.")] = None,
    text: Annotated[str | None, Option(metavar="COLUMN", help="Its column of texts; by default guessed.")] = None,
    set: Set = [],
    name: Name = "",
    note: Note = "",
    tag: Tags = [],
    no_promote: NoPromote = False,
    rebuild: Rebuild = False,
    dry_run: DryRun = False,
) -> None:
    """Evaluate every model of a run on held-out data; or with --data, one model on data that it has not seen.

    Example: tokenmill evaluate --model quickstart-spam --data new.csv --label label
    """
    from flows.label import make_label

    if data is None:
        if config is None:
            raise InputError("Name a run's TOML file, or with --data what to score a model on.")
        if model or label or text:
            raise InputError("--model, --label and --text belong to --data, which names what to score a model on.")
        about = make_label(name, note, tag, set)
        run_flow("evaluate", config, about, "evaluate", promote=not no_promote, dry_run=dry_run, rebuild=rebuild)
        return
    if config or set or no_promote or rebuild or dry_run:
        raise InputError(
            "--data scores a published model: it takes no config, --set, --no-promote, --rebuild or --dry-run."
        )
    _evaluate_new(current_home(), model, data, text, label, make_label(name, note, tag))


def _evaluate_new(
    home: Home, reference: str | None, data: str, text: str | None, label: str | None, about: Label
) -> None:
    """Score a model on new data, unless that was done before, and print the metrics.

    Args:
        home: the home.
        reference: the model, as a person names it.
        data: the file, folder or address.
        text, label: its columns; None guesses them.
        about: what a person says about the run.

    Raises:
        InputError: there is no such model or data, or they do not fit.
    """
    from flows.commands.closing import closing
    from flows.commands.run import carry_out
    from flows.console import print_unbroken, say
    from flows.tracking.registry import find_model
    from pipelines.new_data import TASK_OF, choose_columns, plan
    from pipelines.starter.survey import survey

    started = time.perf_counter()
    say("Looking at the data.", "dim")
    found = survey(data)
    kind = choose_columns(found, text, label)[1].kind
    model = find_model(reference, home, TASK_OF.get(kind, "language"))
    config = plan(model, _experiment(model, home), found, text, label)
    outcomes = _find_made(config, home) or carry_out(home, "evaluate-new", config, {"label": about})
    evaluation = next(each.dataset for each in outcomes if each.dataset.ref.kind == "evaluation")
    typer.echo()
    print_unbroken(closing(config.name, outcomes, home.path, time.perf_counter() - started))
    typer.echo()
    print_unbroken(metrics_table(evaluation))
    typer.echo(f'The predictions: tokenmill sql --dataset {evaluation} "from predictions"')


def _experiment(model: Dataset, home: Home) -> str:
    """Return the experiment that has the model's run, or one of the model's name."""
    from pipelines.catalog import runs

    run_id = model.manifest.built.get("mlflow_run_id")
    known = runs.read("runs", home.mlflow_uri).select(["run_id", "experiment"]).to_pylist()
    return next((str(run["experiment"]) for run in known if run["run_id"] == run_id), model.ref.name)


def _find_made(config: NewDataRun, home: Home) -> list[Outcome]:
    """Return the outcome of each step if all of them were carried out before; else an empty list."""
    from flows.console import say
    from flows.orchestration.finished import published_only
    from flows.outcome import Outcome
    from pipelines.new_data import evaluate_new

    made: list[Dataset] = []
    try:
        evaluate_new(published_only(home.store, made), config, home.store, say)
    except LookupError:
        return []
    return [Outcome(each.manifest.step, each, 0.0, reused=True) for each in made]


def metrics_table(evaluation: Dataset) -> Table:
    """Return the model's metrics with their intervals, each beside the best of the systems it is compared with."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from pipelines.evaluation.results import MODEL, read_metrics
    from pipelines.evaluation.tasks import METRICS
    from pipelines.visible import cut, one_line

    systems = read_metrics(evaluation)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name in ("metric", "model", "95%", "best other", "which is"):
        is_text = name in ("metric", "which is")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=name != "which is")
    for metric, own in systems.pop(MODEL).items():
        known = METRICS.get(metric.partition("/")[0])
        others = [(each[metric].value, system) for system, each in systems.items() if metric in each]
        others.sort(key=lambda pair: pair[0], reverse=not (known and known.lower_is_better))
        best = (f"{others[0][0]:.4g}", others[0][1].replace(" logistic", "")) if others else ("", "")
        interval = "" if own.low is None else f"{own.low:.3g} to {own.high:.3g}"
        cells = (cut(metric, LONGEST), f"{own.value:.4g}", interval, *best)
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table
