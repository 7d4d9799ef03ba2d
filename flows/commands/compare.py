"""`tokenmill compare`: models side by side, with intervals and tests."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from flows.console import standard_output
from flows.home import Home
from flows.tracking.registry import find_model
from pipelines.errors import InputError
from pipelines.evaluation.compare import Difference, compare, matching, shown
from pipelines.numbers import p_value
from pipelines.visible import one_line


def compare_models(references: Sequence[str], significance: float = 0.05) -> None:
    """Print the metrics of models that were evaluated on the same items. Test each model against the first.

    Raises:
        InputError: fewer than two models, or no evaluations of the same items.
    """
    home = Home.from_environment()
    models = [find_model(reference, home) for reference in references]
    if len({model.ref for model in models}) < 2:
        raise InputError("There is nothing to compare: name two models or more, such as quickstart/1 quickstart/2.")
    evaluations = matching([model.ref for model in models], home.store)
    first = evaluations[0].manifest
    on = first.inputs.get("examples") or first.inputs["tokens"]
    title = one_line(f"{first.config['split']} split of {on}")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for reference, model in zip(references, models, strict=True):
        table.add_column(Text.assemble(one_line(reference), "\n", (str(model.ref), "dim")))
    by_metric = [{each.metric: each for each in compare(evaluations[0], other)} for other in evaluations[1:]]
    for metric in (name for name in by_metric[0] if all(name in pair for pair in by_metric)):
        row = [pair[metric] for pair in by_metric]
        others = (_beside(each, significance) for each in row)
        table.add_row(Text(one_line(row[0].metric)), Text(shown(row[0].first)), *others)
    console = standard_output()
    console.print(table)
    n = f"95% intervals by bootstrap over the items; each model tested against the first, at p < {significance:g}."
    console.print(Text(n, style="dim"))


def _beside(each: Difference, significance: float) -> Text:
    if each.p is None:
        return Text(shown(each.second))
    result = each.verdict(significance)
    style = {"better": "green", "worse": "red"}.get(result, "dim")
    tested = f"{result} ({each.difference.value:+.4g}, {p_value(each.p)})"
    return Text.assemble(shown(each.second), "\n", (tested, style))
