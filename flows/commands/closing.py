"""The end of a run: the closing table and the commands to type next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flows.outcome import Outcome, details


def closing(name: str, outcomes: Sequence[Outcome], home: Path, seconds: float) -> Group:
    """The closing table."""
    steps = sum(not outcome.summary for outcome in outcomes)
    title = f"{name}: {steps} steps in {seconds:,.1f} s"
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    table.add_column("step", no_wrap=True)
    table.add_column("what came of it, and where it lies")
    table.add_column("took", justify="right", no_wrap=True)
    for number, outcome in enumerate(outcomes):
        if number:
            table.add_row()
        if outcome.summary:
            table.add_row(outcome.step, Text(outcome.summary), outcome.took)
            continue
        path = outcome.dataset.file("report.html") if outcome.step == "report" else outcome.dataset.folder
        where = path.relative_to(home) if path.is_relative_to(home) else path
        time = Text(outcome.took, style="dim" if outcome.reused else "")
        table.add_row(
            outcome.step,
            Group(Text(details(outcome.dataset)), Text(str(where), style="dim", overflow="fold")),
            time,
        )
    return Group("", table, "")


def next_commands(run: str, outcomes: Sequence[Outcome]) -> list[str]:
    """What a person may want to type now."""
    models = {
        o.dataset.manifest.statistics.get("task"): o.dataset.ref.name
        for o in reversed(outcomes)
        if o.dataset.ref.kind == "model"
    }
    lines = ["Next:"]
    if name := models.get("language"):
        lines.append(f'  tokenmill generate "In the beginning" --model {name}')
    if name := models.get("classification"):
        lines.append(f'  tokenmill classify "You have won £500! Call 09050001808" --model {name}')
    if name := models.get("instruction"):
        lines.append(f"  tokenmill chat --model {name}")
    lines.append('  tokenmill sql "select source, count(*) from documents group by source"')
    lines.append(f"  tokenmill report {run} --open")
    lines.append("  tokenmill up        # Prefect's and MLflow's pages on what happened")
    return lines
