"""`--dry-run`: the steps of a run, what is reused, how long the others take and how big they become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from flows.home import Home
    from pipelines.config import RunConfig
    from pipelines.forecast import StepForecast


def show_dry_run(config: RunConfig, until: str, home: Home, rebuild: bool) -> None:
    """Print the steps of a run. No server is started, and nothing is written.

    Raises:
        InputError: the run would fail, as far as that is known.
    """
    from flows.console import print_unbroken, say
    from flows.orchestration.progress import hashing_bar
    from flows.orchestration.warm_start import find_base
    from pipelines.forecast import forecast
    from pipelines.preflight import check_outside

    check_outside(config, until)
    base = find_base(config, until, home)

    def announce() -> None:
        say("Training the model for some steps, to measure this machine.", "dim")

    with hashing_bar():
        steps = forecast(config, until, home.store.list(), base, rebuild, announce)
    typer.echo()
    print_unbroken(_table(steps))
    typer.echo(f"\n{summary(steps)}")


def _table(steps: Sequence[StepForecast]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from flows.outcome import headline
    from pipelines.numbers import size
    from pipelines.visible import one_line

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("step", "what", "size", "time"):
        table.add_column(title, justify="right" if title in ("size", "time") else "left", no_wrap=title != "what")
    several = [step.step.type.name for step in steps]
    for each in steps:
        kind = each.step.type.name
        parts = [each.step.name] if several.count(kind) > 1 else []
        parts += [headline(each.dataset) if each.dataset else each.about]
        parts += [f"time {each.unknown}"] if each.unknown else []
        cells = ["", "reused"] if each.dataset else ["" if each.bytes is None else f"~{size(each.bytes)}", _time(each)]
        what = one_line("; ".join(filter(None, parts)))
        table.add_row(kind, Text(what), cells[0], Text(cells[1], style="dim" if each.dataset else ""))
    return table


def _time(step: StepForecast) -> str:
    from pipelines.numbers import duration

    if step.seconds is None:
        return "?"
    return "<1 s" if step.seconds < 1 else f"{'<' if step.at_most else '~'}{duration(step.seconds)}"


def summary(steps: Sequence[StepForecast]) -> str:
    """Return a sentence about all steps."""
    from pipelines.numbers import counted, duration, size

    new = [step for step in steps if not step.dataset]
    reused = len(steps) - len(new)
    if not new:
        return f"All {counted(reused, 'step')} are reused: there is nothing to make."
    seconds, n_bytes = sum(step.seconds or 0 for step in new), sum(step.bytes or 0 for step in new)
    unknown = ", ".join(dict.fromkeys(step.step.type.name for step in new if step.seconds is None))
    without = f", without {unknown}" if unknown else ""
    about = "at most" if any(step.at_most for step in new) else "about"
    return (
        f"{counted(reused, 'step')} reused, {len(new)} to be made: {about} {duration(seconds)}{without}, and "
        f"{size(n_bytes)} on the disk.\nThese are estimates; nothing was made."
    )
