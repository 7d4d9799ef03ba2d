"""The end of a run: the closing table and the commands to try next."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flows.outcome import Outcome, details
from pipelines.visible import one_line


def closing(name: str, outcomes: Sequence[Outcome], home: Path, seconds: float) -> Table:
    """Return the closing table of a run: each step with its result, the result's folder and the time."""
    steps = sum(not outcome.summary for outcome in outcomes)
    title = f"{one_line(name)}: {steps} steps in {seconds:,.1f} s"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, collapse_padding=True)
    table.pad_edge, table.show_edge, table.leading = False, False, 1
    table.add_column("step", no_wrap=True)
    table.add_column("what it made, and where")
    table.add_column("took", justify="right", no_wrap=True)
    for outcome in outcomes:
        if outcome.summary:
            table.add_row(outcome.step, Text(one_line(outcome.summary)), outcome.took)
            continue
        path = outcome.dataset.file("report.html") if outcome.step == "report" else outcome.dataset.folder
        where = path.relative_to(home) if path.is_relative_to(home) else path
        result = Group(Text(details(outcome.dataset)), Text(one_line(str(where)), style="dim", overflow="fold"))
        table.add_row(outcome.step, result, Text(outcome.took, style="dim" if outcome.reused else ""))
    return table


HINTS = {
    "language": 'tokenmill generate "In the beginning" --model {}',
    "classification": 'tokenmill classify "You have won £500! Call 09050001808" --model {}',
    "instruction": "tokenmill chat --model {}",
}
"""A command to try with a model of each task."""


def next_commands(run: str, outcomes: Sequence[Outcome]) -> str:
    """Return the lines that show what a person may want to type next."""
    made = [outcome.dataset for outcome in reversed(outcomes) if outcome.dataset.ref.kind == "model"]
    models = {dataset.manifest.statistics.get("task"): dataset.ref.name for dataset in made}
    commands = [
        *(hint.format(models[task]) for task, hint in HINTS.items() if task in models),
        'tokenmill sql "select source, count(*) from documents group by source"',
        f"tokenmill report {run} --open",
        "tokenmill up        # Prefect's and MLflow's pages on what happened",
    ]
    return "\n  ".join(["Next:", *commands])
