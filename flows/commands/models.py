"""The commands about models: generate, chat, compare, list, promote, evaluate again and roll back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from flows.commands import completion
from flows.commands.options import Config, Model, Reason, Set, Temperature, current_home
from flows.commands.run import run_flow
from flows.terminal import results
from pipelines.errors import InputError, did_you_mean
from pipelines.visible import one_line

if TYPE_CHECKING:
    from rich.text import Text

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
    from flows.console import standard_output

    for line in model_lines(current_home(), name):
        standard_output().print(line, soft_wrap=True)


def model_lines(home: Home, name: str | None = None) -> Iterator[Text]:
    """Yield every registered version with aliases, deciding metric and date, each above the decision and its reason.

    Raises:
        InputError: nothing is registered, or nothing of that name.
    """
    from rich.text import Text

    from pipelines.catalog.registry import DECIDED, DECISION, WHY, registered
    from pipelines.evaluation.compare import evaluations_of
    from pipelines.evaluation.promotion import PromoteConfig

    every = registered(home.mlflow_uri)
    versions = [each for each in every if name in (None, each.name)]
    if not versions:
        known = did_you_mean(name or "", {each.name for each in every}, "`tokenmill run CONFIG` registers models.")
        what = f"MLflow's registry has no model {name!r}" if name else "No model is registered yet"
        raise InputError(f"{what}; {known}")
    published = {dataset.ref.fingerprint: dataset for dataset in home.store.list("model")}
    evaluations = home.store.list("evaluation")
    rows = [("model", "alias", "metric", "made")]
    for each in versions:
        metric = "no longer in the store"
        if model := published.get(each.fingerprint or ""):
            key = PromoteConfig().reported_metric(str(model.manifest.statistics["task"]))
            statistics = [evaluation.manifest.statistics for evaluation in evaluations_of(model.ref, evaluations)]
            short = key.rpartition("/")[2]
            metric = next((f"{short} {s[key]:.4g}" for s in statistics if key in s), "not evaluated")
        made = each.created.astimezone().strftime("%Y-%m-%d %H:%M")
        cells = (str(each), ", ".join(each.aliases), metric, made)
        rows.append(tuple(one_line(cell) for cell in cells))  # type: ignore[arg-type]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, version in zip(rows, [None, *versions], strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield Text(line, "" if version else "bold")
        if version and DECISION in version.tags:
            at = version.tags.get(DECIDED, "")[:16].replace("T", " ")
            why = version.tags.get(WHY)
            yield Text(one_line(f"  {version.tags[DECISION]} {at}{f': {why}' if why else ''}"), "dim")


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
    from flows.label import make_label
    from flows.tracking.registry import promote_by_hand

    if what.endswith(".toml"):
        run_flow("promote", Path(what), make_label(overrides=set), again=again)
    else:
        typer.echo(promote_by_hand(current_home(), what, reason))


def reevaluate(config: Config, set: Set = []) -> None:
    """Evaluate champions and challengers on today's held-out data of a run. Trains nothing.

    Example: tokenmill reevaluate configs/quickstart.toml
    """
    from flows.label import make_label

    run_flow("reevaluate", config, make_label(overrides=set))


def rollback(
    name: Annotated[str, Argument(help="The name of a registered model.", autocompletion=completion.models)],
    reason: Reason = "no reason given",
) -> None:
    """Make the previous champion the champion again. Repeat it to go back further.

    Example: tokenmill rollback quickstart --reason "writes nonsense"
    """
    from flows.tracking.registry import roll_back

    typer.echo(roll_back(current_home(), name, reason))
