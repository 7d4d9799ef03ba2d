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
    base = find_base(config.base, config.name, home) if config.base and until != "ingest" else None

    def announce() -> None:
        say("Training the model for some steps, to measure this machine.", "dim")

    with hashing_bar():
        steps = forecast(config, until, home.store.list(), base, rebuild, announce)
    typer.echo()
    print_unbroken(_table(config.name, steps))
    typer.echo(f"\n{summary(steps)}")


def _table(name: str, steps: Sequence[StepForecast]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from flows.outcome import headline
    from pipelines.numbers import duration, size
    from pipelines.visible import one_line

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title in ("step", "what", "size", "time"):
        table.add_column(title, justify="right" if title in ("size", "time") else "left", no_wrap=title != "what")
    several = [step.step.type.name for step in steps]
    for each in steps:
        kind, which = each.step.type.name, f"{each.step.name}: "
        what = headline(each.dataset) if each.dataset else each.about
        what = f"{which}{what}".rstrip(": ") if several.count(kind) > 1 else what
        big = "" if each.bytes is None else size(each.bytes)
        long = each.unknown or f"~{duration(each.seconds or 0)}"
        cells = ("", "reused") if each.dataset else (big and f"~{big}", long)
        table.add_row(kind, Text(one_line(what)), cells[0], Text(cells[1], style="dim" if each.dataset else ""))
    return table


def summary(steps: Sequence[StepForecast]) -> str:
    """Return a sentence about all steps."""
    from pipelines.numbers import counted, duration, size

    new = [step for step in steps if not step.dataset]
    reused = len(steps) - len(new)
    if not new:
        return f"All {counted(reused, 'step')} are reused; a run has nothing to make."
    seconds, n_bytes = sum(step.seconds or 0 for step in new), sum(step.bytes or 0 for step in new)
    unknown = [step.step.type.name for step in new if step.seconds is None]
    more = f", and {', '.join(dict.fromkeys(unknown))} more that is not known yet" if unknown else ""
    return (
        f"{counted(reused, 'step')} reused, {len(new)} to be made: about {duration(seconds)}{more}, "
        f"and {size(n_bytes)} on the disk. Nothing was made."
    )
