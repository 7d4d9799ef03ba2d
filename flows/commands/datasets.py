"""The commands about published datasets: `tokenmill datasets ...`, `tokenmill trace` and `tokenmill report`."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from flows.commands import completion
from flows.commands.options import Pins, current_home, resolve_reference
from flows.terminal import results
from pipelines.errors import InputError, did_you_mean
from pipelines.visible import one_line, shorten

app = typer.Typer(help="Published datasets and models.", no_args_is_help=True)


@app.command()
def ls(
    kind: Annotated[
        str | None, Argument(help="Only this kind: corpus, tokens, model, ...", autocompletion=completion.kinds)
    ] = None,
) -> None:
    """List the published datasets, oldest first.

    Example: tokenmill datasets ls tokens
    """
    from flows.outcome import headline
    from pipelines.numbers import short

    found = current_home().store.list(kind)
    if not found:
        from pipelines.config import SHIPPED
        from pipelines.store.kinds import KINDS

        if kind and kind not in KINDS:
            hint = did_you_mean(kind, KINDS, f"there are {', '.join(KINDS)}.")
            raise InputError(f"There is no kind {kind!r}; {hint}")
        which = f" of kind {kind}" if kind else ""
        typer.echo(f"Nothing published{which} yet; try `tokenmill run {SHIPPED / 'quickstart.toml'}`.")
        return
    rows = [["kind", "name", "fingerprint", "bytes", "built", "what it holds"]]
    for dataset in found:
        m = dataset.manifest
        built = m.built_at.astimezone().strftime("%Y-%m-%d %H:%M")
        rows.append([m.kind, m.name, m.fingerprint[:12], short(m.bytes), built, headline(dataset)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # On a terminal, one line each, whose last column is cut. Rich would take a second for a thousand rows.
    room = shutil.get_terminal_size().columns - sum(widths[:5]) - 10 if sys.stdout.isatty() else sys.maxsize
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[3] = row[3].rjust(widths[3])  # bytes
        cells[5] = shorten(row[5], room)
        typer.echo("  ".join(map(one_line, cells)).rstrip())


@app.command()
def show(
    dataset: Annotated[str, Argument(help="NAME, KIND/NAME or a fingerprint.", autocompletion=completion.datasets)],
) -> None:
    """Show a dataset's manifest: how it was made, and what it holds.

    Example: tokenmill datasets show tokens/quickstart
    """
    home = current_home()
    found = home.store.open(resolve_reference(dataset, home))
    typer.echo(f"{found}  {found.address}", err=True)
    manifest, out = found.manifest.model_dump_json(indent=2), results()
    if not out.isatty():
        print(manifest, file=out)
        return
    from flows.console import standard_output

    standard_output().print_json(manifest)


@app.command()
def verify(
    dataset: Annotated[
        str | None, Argument(help="Which dataset; by default all.", autocompletion=completion.datasets)
    ] = None,
) -> None:
    """Compare every byte with the checksums taken when it was published. Exit code 1 if something is wrong.

    Example: tokenmill datasets verify
    """
    home = current_home()
    store = home.store
    one = store.open(resolve_reference(dataset, home)) if dataset else None
    chosen, unreadable = ([one], {}) if one else store.read_manifests()
    for error in unreadable.values():
        typer.echo(error)
    damaged = 0
    for each in chosen:
        problems = store.verify(each)
        damaged += bool(problems)
        for problem in problems:
            typer.echo(f"{each}: {one_line(problem)}")
    total = len(chosen) + len(unreadable)
    if one:
        typer.echo(f"{one} is {'damaged' if damaged else 'as it was published'}.")
    else:
        typer.echo(f"{len(chosen) - damaged} of {total} datasets are as they were published.")
    if damaged or unreadable:
        raise typer.Exit(1)


@app.command()
def gc(
    keep_days: Annotated[float | None, Option(min=0, help="Also delete unneeded datasets unused for so long.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Only show what would be deleted.")] = False,
) -> None:
    """Delete the leftovers of dead runs: unfinished folders, and checkpoints of published steps.

    Example: tokenmill datasets gc --keep-days 30 --dry-run
    """
    from pipelines.numbers import counted, size

    home = current_home()
    store, verb = home.store, "Would delete" if dry_run else "Deleted"
    swept, files = store.sweep(dry_run=dry_run), 0 if dry_run else store.sweep_bucket()
    in_bucket = f" and {counted(files, 'file')} in {store.address}" if files else ""
    typer.echo(f"{verb} {counted(len(swept), 'leftover folder')}{in_bucket}.")
    if keep_days is not None:
        from flows.orchestration.housekeeping import tidy

        removed = tidy(home, keep_days, dry_run)
        for dataset in removed:
            typer.echo(f"  {dataset}")
        freed = sum(dataset.manifest.bytes for dataset in removed)
        typer.echo(f"{verb} {counted(len(removed), 'dataset')}, {size(freed)}.")


@app.command()
def diff(
    a: Annotated[str, Argument(help="The older version.", autocompletion=completion.datasets)],
    b: Annotated[str, Argument(help="The newer version, of the same kind.", autocompletion=completion.datasets)],
    page: Annotated[Path | None, Option("--html", help="Also write the comparison as an HTML page.")] = None,
) -> None:
    """Show what changed between two versions: documents, tokens, rejections.

    Example: tokenmill datasets diff corpus@01b94c72 corpus
    """
    from flows.commands.diff import diff

    home = current_home()
    diff(resolve_reference(a, home), resolve_reference(b, home), home.store, page)


@app.command()
def export(
    target: Annotated[Path, Argument(help="The DuckDB file to write, such as catalog.duckdb.")],
    dataset: Pins = [],
    copy: Annotated[bool, Option(help="Copy the texts into the file, so that it needs no other file.")] = False,
) -> None:
    """Write the catalog as a DuckDB file, for tools without Python.

    Example: tokenmill datasets export catalog.duckdb
    """
    from pipelines.catalog.export import export_catalog

    home = current_home()
    for table, n in export_catalog(home.store, target, home.mlflow_uri, dataset, copy).items():
        typer.echo(f"{n:>12,}  {one_line(table)}")


def trace(
    what: Annotated[
        str,
        Argument(
            help="A dataset, a model, a source file, or the id of a document.", autocompletion=completion.datasets
        ),
    ],
    page: Annotated[Path | None, Option("--html", help="Also write the lineage as a graph in an HTML page.")] = None,
) -> None:
    """Show where something came from and what was made from it.

    Example: tokenmill trace model/quickstart
    """
    from flows.commands.trace import trace

    home = current_home()
    trace(resolve_reference(what, home), home.store, page)


def report(
    what: Annotated[
        str | None,
        Argument(help="A run, or any dataset or model; by default the newest run.", autocompletion=completion.datasets),
    ] = None,
    output: Annotated[Path | None, Option(help="Write the page to this file.")] = None,
    open: Annotated[bool, Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Show the report on a run: its data, training and results. Draw one for a dataset without a report.

    Example: tokenmill report quickstart
    """
    from flows.commands.report import find_or_draw

    home = current_home()
    if what is None:
        reports = home.store.list("report")
        if not reports:
            raise InputError("No run has published a report yet; `tokenmill run CONFIG` makes one.")
        what = reports[-1].ref.name
    page = find_or_draw(resolve_reference(what, home), home.store, output)
    print(page, file=results())
    if open:
        typer.launch(page.as_uri())
