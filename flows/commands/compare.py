"""`tokenmill compare`: models side by side: what differs in them, and metrics with intervals and tests."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.console import standard_output, warn
from flows.home import Home
from flows.tracking.registry import find_model
from pipelines.errors import InputError
from pipelines.evaluation.compare import Difference, compare, judged_on, matching, shown
from pipelines.evaluation.differences import config_changes, facts
from pipelines.numbers import p_value
from pipelines.store.dataset import Dataset
from pipelines.visible import one_line


def compare_models(
    references: Sequence[str], significance: float = 0.05, page: Path | None = None, smoothing: float = 0.0
) -> None:
    """Print what differs in models, and test each model against the first where both were judged on the same items.

    Args:
        references: the models, as a person names them.
        significance: the largest p-value that counts.
        page: where to write the same and more as a page of HTML.
        smoothing: how much of the value before enters a point of the page's loss curves.

    Raises:
        InputError: fewer than two models, one without an evaluation, or the page cannot be written.
    """
    home = Home.from_environment()
    models = [find_model(reference, home) for reference in references]
    if len({model.ref for model in models}) < len(models) or len(models) < 2:
        raise InputError(
            "There is nothing to compare: name two different models or more, such as quickstart/1 quickstart/2."
        )
    evaluations: list[Dataset] = []
    problem = ""
    try:
        evaluations = matching([model.ref for model in models], home.store)
    except InputError as error:
        problem = str(error)
    console = standard_output()
    labels = _labels(console, references)
    _print_differences(console, labels, models, home.store.list())
    if evaluations:
        _print_metrics(console, labels, evaluations, significance)
    else:
        warn(problem)
    if page:
        from pipelines.report.comparison import comparison_page
        from pipelines.report.page import write_page

        write_page(page, comparison_page(references, models, home.store, significance, smoothing))
        console.print(Text(one_line(f"Written to {page}.")), soft_wrap=True)


def _labels(console: Console, references: Sequence[str]) -> Sequence[str]:
    """Return a label for each model: its reference, or a letter, with a line about each, if one has no room."""
    labels = [one_line(reference) for reference in references]
    if max(map(cell_len, labels)) <= min(_room(console, len(labels)), console.width - WIDEST_RESULT):
        return labels
    for letter, label in zip(LETTERS, labels, strict=False):
        console.print(Text(f"{letter}  {label}"), soft_wrap=True)
    console.print()
    return LETTERS[: len(labels)]


def _room(console: Console, n_models: int) -> int:
    """Return the width of a model's column in the table of differences."""
    return (console.width - WIDEST_NAME) // n_models - 2


def _print_differences(
    console: Console, labels: Sequence[str], models: Sequence[Dataset], datasets: Sequence[Dataset]
) -> None:
    rows = [*facts(models, datasets), *config_changes(models, datasets)]
    room = _room(console, len(models))
    fitting = [row for row in rows if cell_len(row.name) <= WIDEST_NAME and max(map(cell_len, row.values)) <= room]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for label in ("what differs", *labels):
        table.add_column(Text(label), no_wrap=True)
    for row in fitting:
        table.add_row(*(Text(one_line(cell)) for cell in row.cells), style="" if row.differs else "dim")
    console.print(table)
    for row in (row for row in rows if row not in fitting):
        same = "" if row.differs else f"  {row.values[0]}"
        console.print(Text(one_line(row.name + same)), soft_wrap=True)
        for label, value in zip(labels, row.values, strict=True) if row.differs else ():
            console.print(Text(f"  {label}  {one_line(value)}"), soft_wrap=True)
    console.print()


def _print_metrics(
    console: Console, labels: Sequence[str], evaluations: Sequence[Dataset], significance: float
) -> None:
    by_metric = [{each.metric: each for each in compare(evaluations[0], other)} for other in evaluations[1:]]
    console.print(Text(one_line(f"{judged_on(evaluations[0])}, with 95% intervals"), "bold"), soft_wrap=True)
    for metric in (name for name in by_metric[0] if all(name in pair for pair in by_metric)):
        row = [pair[metric] for pair in by_metric]
        console.print(Text(one_line(metric)), soft_wrap=True)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_row(Text(f"  {labels[0]}"), Text(shown(row[0].first)))
        for label, each in zip(labels[1:], row, strict=True):
            table.add_row(Text(f"  {label}"), Text(shown(each.second)), _verdict(each, significance))
        console.print(table)
    note = f"Intervals by bootstrap over the items; tests against the first, at p < {significance:g}."
    console.print(Text(note, style="dim"))


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WIDEST_NAME = 34  # of a fact in a table, so that two references fit beside it in 80 columns
WIDEST_RESULT = 60  # a value with its interval, and a verdict


def _verdict(each: Difference, significance: float) -> Text:
    if each.p is None:
        return Text("")
    result = each.verdict(significance)
    style = {"better": "green", "worse": "red"}.get(result)
    if style is None:
        return Text(f"{result}, {p_value(each.p)}", "dim")
    return Text(f"{result} ({each.difference.value:+.4g}, {p_value(each.p)})", style)
