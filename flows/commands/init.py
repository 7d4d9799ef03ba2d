"""`tokenmill init`: looks at somebody's text and writes a config that runs on it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from flows.environment import expand_user
from flows.terminal import results
from pipelines.errors import InputError
from pipelines.visible import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipelines.starter.plan import Plan
    from pipelines.starter.survey import Kind, Survey

SHOWN = 3  # names, labels and languages of a kind


def init(
    text: Annotated[
        str,
        Argument(metavar="[FOLDER|FILE]", help="The text: a folder, file, glob or address; by default, this folder."),
    ] = ".",
    output: Annotated[
        str | None, Option(help="The config's file, - for standard output; by default NAME.toml in the current folder.")
    ] = None,
    force: Annotated[bool, Option(help="Replace a config that exists.")] = False,
) -> None:
    """Look at somebody's text and write a config that runs on it.

    Example: tokenmill init letters
    """
    from flows.console import console, say, standard_output
    from pipelines.starter.config import write_config
    from pipelines.starter.plan import make_plan
    from pipelines.starter.sources import slug
    from pipelines.starter.speed import this_machine
    from pipelines.starter.survey import name_of, survey

    _check_unicode(text, output)
    say("Looking at the text.", "dim")
    found = survey(text)
    name = slug(name_of(found.uri))
    target = None if output == "-" else _target(output, name, found, force)
    say("Trying what a run would make of it, and measuring this machine.", "dim")
    plan = make_plan(found, this_machine())
    config = write_config(plan, name, text)
    if target:
        _write(target, config, force)
    else:
        results().write(config)
    _show(console if target is None else standard_output(), plan, target)


def _check_unicode(*arguments: str | None) -> None:
    for argument in filter(None, arguments):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"{one_line(argument)}: the name is not UTF-8, and a config is; rename it.") from None


def _target(output: str | None, name: str, found: Survey, force: bool) -> Path:
    """Return the file of the config, which is never in the folder of the text.

    Raises:
        InputError: it exists, or it would be in that folder.
    """
    from pipelines.starter.addresses import folder_of

    folder, here = folder_of(found.uri), Path.cwd()
    inside = folder is not None and here.resolve().is_relative_to(folder.resolve())
    default = (folder.resolve().parent if inside and folder else Path()) / f"{name}.toml"
    target = expand_user(Path(output)) if output else default
    if target.is_dir():
        target = target / f"{name}.toml"
    if folder and target.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{target} would be in the folder of the text, where nothing is written; give another --output."
        )
    if target.exists() and not force:
        raise InputError(f"{target} exists already; give another --output, or --force to replace it.")
    return target


def _write(target: Path, config: str, force: bool) -> None:
    try:
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(config)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}; give another --output.") from None


def _show(console: Console, plan: Plan, target: Path | None) -> None:
    from rich.text import Text

    console.print("", _table(plan.survey), "")
    for line in _sentences(plan):
        console.print(Text(one_line(line)), soft_wrap=True)
    if target is None:
        return
    console.print(Text(f"\nThe config, with a comment on each choice: {one_line(str(target))}"), soft_wrap=True)
    elsewhere = target.is_absolute() and target.parent != Path.cwd() and not target.is_relative_to(Path.cwd())
    change = [f"cd {shlex.quote(str(target.parent))}"] if elsewhere else []
    command = f"tokenmill run {shlex.quote(target.name if elsewhere else str(target))}"
    typer.echo("\n  ".join(["Next:", *map(one_line, (*change, command))]))


def _table(survey: Survey) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from pipelines.numbers import short, size

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("files", "size", "read as", "what it holds", "language", "tokens"):
        table.add_column(name, justify="right" if name in ("size", "tokens") else "left")
    for kind in survey.kinds:
        cells = (_files(kind), size(kind.bytes), _reading(kind), _content(kind), _languages(kind))
        table.add_row(*(Text(one_line(cell), overflow="fold") for cell in cells), f"~{short(kind.tokens)}")
    return table


def _files(kind: Kind) -> str:
    return f"{len(kind.files):,} .{kind.extension}" if kind.extension else f"{len(kind.files):,}"


def _reading(kind: Kind) -> str:
    """Return the format of a kind and what is not usual: no header, other encodings, guesses."""
    parts = [kind.format, *(["no header"] if kind.names else [])]
    parts += [name for name, _ in kind.encodings[:SHOWN] if name not in ("utf-8", "ascii")]
    guess = "a doubtful guess" if kind.doubtful else "guessed" if kind.guessed else ""
    return f"{', '.join(parts)}{f' ({guess})' if guess else ''}"


def _content(kind: Kind) -> str:
    columns = kind.columns
    if columns is None or not kind.is_table:
        return "text"
    roles = [f"{role}: {column}" for column, role in columns.roles().items()]
    if columns.labels:
        some = ", ".join(label for label, _ in columns.labels[:SHOWN])
        roles[-1] += f" ({some}{', ...' if len(columns.labels) > SHOWN else ''})"
    return "; ".join(roles)


def _languages(kind: Kind) -> str:
    total = sum(count for _, count in kind.languages)
    some = [name for name, count in kind.languages[:SHOWN] if count >= 0.1 * total]
    return ", ".join(some)


def _sentences(plan: Plan) -> Iterator[str]:
    """Yield what is not read, what was decided, and how long it takes."""
    from pipelines.numbers import duration, short
    from pipelines.starter.config import describe_text

    for kind in plan.survey.unread:
        example = "" if len(kind.files) == 1 else f" and {len(kind.files) - 1:,} more"
        yield f"Not read: {kind.files[0].name}{example}: {kind.problem}."
    if skipped := plan.survey.skipped:
        more = f", and {len(skipped) - 1:,} more files" if len(skipped) > 1 else ""
        yield f"Not read: {skipped[0].name}: {skipped[0].reason}{more}."
    yield f"Text: {describe_text(plan)}."
    size = plan.size
    yield (
        f"Model: {size.layers} layers of width {size.width}, a context of {plan.context}, "
        f"{plan.steps:,} steps, which read the text {plan.epochs:.1f} times."
    )
    for each in plan.finetunings:
        columns = each.task.kind.columns
        what = f"a classifier of {columns.label!r}" if columns and columns.label else "an assistant"
        yield f"Fine-tuned: {what}, on about {each.examples:,} examples of training, {each.steps:,} steps."
    for name in plan.amount.left_out:
        yield f"Not fine-tuned: {name}, whose examples are too few."
    where = "the GPU" if plan.machine.has_gpu else f"{plan.machine.threads} threads"
    yield (
        f"A run takes about {duration(plan.seconds)}: a step of this model took {short(plan.step_seconds)} s "
        f"on {where} just now, and the rest is estimated from the amount of text."
    )
