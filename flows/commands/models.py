"""The commands about models: generate, chat, compare, list, promote, evaluate again and roll back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from flows.commands import completion
from flows.commands.options import Config, Model, Reason, Set, Temperature, current_home
from flows.commands.run import run_flow
from flows.terminal import results
from pipelines.errors import InputError
from pipelines.visible import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from flows.home import Home


def generate(
    prompt: Annotated[str, Argument(help="The text that the model continues.")] = "",
    model: Model = None,
    max_new_tokens: Annotated[int, Option(min=1, help="Longest continuation, in tokens.")] = 200,
    temperature: Temperature = 0.8,
    top_k: Annotated[int, Option(min=0, help="Draw among the k likeliest tokens; 0 draws among all.")] = 50,
    top_p: Annotated[float | None, Option(help="Draw among the likeliest that reach this probability.")] = None,
    seed: Annotated[int, Option(help="The same seed gives the same text.")] = 0,
) -> None:
    """Let a model continue a text.

    Example: tokenmill generate "In the beginning" --model quickstart
    """
    from flows.tracking.registry import find_model
    from gpt.generate import Sampling
    from pipelines.models.language_model import open_gpt

    language_model, out = open_gpt(find_model(model).path), results()
    print(prompt, end="", file=out, flush=True)
    try:
        s = Sampling(max_new_tokens, temperature=temperature, top_k=top_k or None, top_p=top_p, seed=seed)
        for piece in language_model.stream(prompt, s):
            print(piece, end="", file=out, flush=True)
    except ValueError as error:
        raise InputError(f"{error}.") from None
    print(file=out)


def chat(
    model: Model = None,
    temperature: Temperature = 0.0,
    max_new_tokens: Annotated[int, Option(min=1, help="Longest answer, in tokens.")] = 120,
    system: Annotated[str, Option(help="A system prompt, above the conversation.")] = "",
    seed: Annotated[int, Option(min=0, help="The same seed gives the same answers.")] = 0,
) -> None:
    """Talk to an assistant. /help shows the commands of the chat. Lines from a pipe are answered in turn.

    Example: tokenmill chat --model quickstart-assistant
    """
    from flows.commands.chat import Settings, run_chat

    run_chat(model, Settings(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed), system)


def compare(
    models: Annotated[
        list[str],
        Argument(help="Two models or more; the others are tested against the first.", autocompletion=completion.models),
    ],
    significance: Annotated[float, Option(min=0, max=1, help="Largest p-value that counts.")] = 0.05,
    html: Annotated[Path | None, Option(help="Write a page to send on: the same, curves, and what each wrote.")] = None,
    smoothing: Annotated[float, Option(min=0, max=0.99, help="Smooth the page's loss curves, as TensorBoard.")] = 0.0,
    open: Annotated[bool, Option("--open", help="Show the page in the browser.")] = False,
) -> None:
    """Show what differs in models: config, data, size, time, and metrics with intervals and tests.

    Example: tokenmill compare quickstart/1 quickstart/2 --html compare.html
    """
    from flows.commands.compare import compare_models

    page = html or (Path("compare.html") if open else None)
    compare_models(models, significance, page, smoothing)
    if open and page:
        typer.launch(page.absolute().as_uri())


def models(
    name: Annotated[str | None, Argument(help="Only this model's versions.", autocompletion=completion.models)] = None,
) -> None:
    """List the registered models: versions, aliases, metric, and each promotion decision with its reason.

    Example: tokenmill models quickstart
    """
    from flows.console import print_unbroken

    print_unbroken(models_table(current_home(), name))


def models_table(home: Home, name: str | None = None) -> Table:
    """Return every registered version with its aliases, its deciding metric, and the decision with date and reason.

    Raises:
        InputError: nothing is registered, or nothing of that name.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from pipelines.catalog.registry import DECIDED, DECISION, WHY, registered
    from pipelines.evaluation.compare import evaluations_of
    from pipelines.evaluation.promotion import PromoteConfig
    from pipelines.evaluation.tasks import TASKS

    versions = registered(home.mlflow_uri, name)
    if not versions:
        what = f"MLflow's registry has no model {name!r}" if name else "No model is registered yet"
        raise InputError(f"{what}; `tokenmill run CONFIG` makes and registers models.")
    published = {dataset.ref.fingerprint: dataset for dataset in home.store.list("model")}
    evaluations = home.store.list("evaluation")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "alias", "metric", "made", "decision"):
        table.add_column(column, no_wrap=column in ("model", "made"))
    for each in versions:
        metric, style = "no longer in the store", "dim"
        if model := published.get(each.fingerprint or ""):
            task = str(model.manifest.statistics["task"])
            key = f"{TASKS[task].stage}/{PromoteConfig().criterion(task).metric.partition('/')[2]}"
            statistics = [evaluation.manifest.statistics for evaluation in evaluations_of(model.ref, evaluations)]
            metric, style = next((f"{key} {s[key]:.4g}" for s in statistics if key in s), "not evaluated"), ""
        decision = " ".join(filter(None, (each.tags.get(DECISION), each.tags.get(DECIDED, "")[:16].replace("T", " "))))
        if why := each.tags.get(WHY):
            decision = f"{decision}: {why}"
        made = each.created.astimezone().strftime("%Y-%m-%d %H:%M")
        cells = (str(each), ", ".join(each.aliases), Text(metric, style), made, decision)
        table.add_row(*(cell if isinstance(cell, Text) else Text(one_line(cell)) for cell in cells))
    return table


def promote(
    what: Annotated[
        str,
        Argument(help="NAME/VERSION, or a run's TOML file: then the gate decides.", autocompletion=completion.models),
    ],
    reason: Reason = "no reason given",
    again: Annotated[bool, Option(help="Let the gate decide again about models with a decision.")] = False,
    set: Set = [],
) -> None:
    """Make a version the champion by hand, or compare a run's newest models with their champions again.

    Example: tokenmill promote quickstart/2 --reason "reads better"
    """
    from flows.tracking.registry import promote_by_hand

    if what.endswith(".toml"):
        run_flow("promote", Path(what), set, again=again)
    else:
        typer.echo(promote_by_hand(current_home(), what, reason))


def reevaluate(config: Config, set: Set = []) -> None:
    """Evaluate champions and challengers on today's held-out data of a run. Trains nothing.

    Example: tokenmill reevaluate configs/quickstart.toml
    """
    run_flow("reevaluate", config, set)


def rollback(
    name: Annotated[str, Argument(help="The name of a registered model.", autocompletion=completion.models)],
    reason: Reason = "no reason given",
) -> None:
    """Make the previous champion the champion again. Repeat it to go back further.

    Example: tokenmill rollback quickstart --reason "writes nonsense"
    """
    from flows.tracking.registry import roll_back

    typer.echo(roll_back(current_home(), name, reason))
