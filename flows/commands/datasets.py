"""The commands about published datasets: `tokenmill datasets ...`, `tokenmill trace` and `tokenmill report`."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from flows.commands.options import Pins, current_home
from flows.terminal import results
from pipelines.visible import one_line

app = typer.Typer(help="Published datasets and models.", no_args_is_help=True)


@app.command()
def ls(kind: Annotated[str | None, Argument(help="Only this kind: corpus, tokens, model, ...")] = None) -> None:
    """List the published datasets, oldest first.

    Example: tokenmill datasets ls tokens
    """
    from flows.outcome import counts
    from pipelines.numbers import short

    found = [dataset.manifest for dataset in current_home().store.list(kind)]
    if not found:
        from pipelines.config import SHIPPED

        config = SHIPPED / "quickstart.toml"
        which = f" of kind {one_line(kind)}" if kind else ""
        typer.echo(f"Nothing published{which} yet; try `tokenmill run {config}`.")
        return
    rows = [["kind", "name", "fingerprint", "bytes", "built", "what it holds"]]
    for m in found:
        built = f"{m.built_at:%Y-%m-%d %H:%M}"
        row = [m.kind, m.name, m.fingerprint[:12], short(m.bytes), built, counts(m.statistics, 4)]
        rows.append([one_line(cell) for cell in row])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # On a terminal, one line each, cut at its edge. Rich would take a second for a thousand rows.
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[3] = row[3].rjust(widths[3])  # bytes
        typer.echo("  ".join(cells).rstrip()[:columns])


@app.command()
def show(dataset: Annotated[str, Argument(help="NAME, KIND/NAME or a fingerprint.")]) -> None:
    """Show a dataset's manifest: how it was made, and what it holds.

    Example: tokenmill datasets show tokens/quickstart
    """
    found = current_home().store.open(dataset)
    typer.echo(f"{found}  {found.address}", err=True)
    manifest, out = found.manifest.model_dump_json(indent=2), results()
    if not out.isatty():
        print(manifest, file=out)
        return
    from flows.console import standard_output

    standard_output().print_json(manifest)


@app.command()
def verify(dataset: Annotated[str | None, Argument(help="Which dataset; by default all.")] = None) -> None:
    """Compare every byte with the checksums taken when it was published. Exit code 1 if something is wrong.

    Example: tokenmill datasets verify
    """
    store = current_home().store
    chosen, unreadable = ([store.open(dataset)], {}) if dataset else store.read_manifests()
    for error in unreadable.values():
        typer.echo(error)
    damaged = 0
    for each in chosen:
        problems = store.verify(each)
        damaged += bool(problems)
        for problem in problems:
            typer.echo(f"{each}: {one_line(problem)}")
    total = len(chosen) + len(unreadable)
    typer.echo(f"{len(chosen) - damaged} of {total} datasets are as they were published.")
    if damaged or unreadable:
        raise typer.Exit(1)


@app.command()
def gc(
    keep_days: Annotated[float | None, Option(min=0, help="Also delete unneeded datasets unused for so long.")] = None,
    dry_run: Annotated[bool, Option(help="Only show which datasets would be deleted.")] = False,
) -> None:
    """Delete the leftovers of dead runs: unfinished folders, and checkpoints of published steps.

    Example: tokenmill datasets gc --keep-days 30 --dry-run
    """
    home = current_home()
    store = home.store
    swept, files = store.sweep(), store.sweep_bucket()
    typer.echo(f"Deleted {len(swept)} leftover folders{f' and {files} files in {store.address}' if files else ''}.")
    if keep_days is not None:
        from flows.orchestration.housekeeping import tidy
        from pipelines.numbers import size

        removed = tidy(home, keep_days, dry_run)
        for dataset in removed:
            typer.echo(f"  {dataset}")
        freed = sum(dataset.manifest.bytes for dataset in removed)
        typer.echo(f"{'Would delete' if dry_run else 'Deleted'} {len(removed)} datasets, {size(freed)}.")


@app.command()
def diff(
    a: Annotated[str, Argument(help="The older version.")],
    b: Annotated[str, Argument(help="The newer version, of the same kind.")],
    page: Annotated[Path | None, Option("--html", help="Also write the comparison as an HTML page.")] = None,
) -> None:
    """Show what changed between two versions: documents, tokens, rejections.

    Example: tokenmill datasets diff corpus@01b94c72 corpus
    """
    from flows.commands.diff import diff

    diff(a, b, current_home().store, page)


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
    what: Annotated[str, Argument(help="A dataset, a model, a source file, or the id of a document.")],
    page: Annotated[Path | None, Option("--html", help="Also write the lineage as a graph in an HTML page.")] = None,
) -> None:
    """Show where something came from and what was made from it.

    Example: tokenmill trace model/quickstart
    """
    from flows.commands.trace import trace

    trace(what, current_home().store, page)


def report(
    what: Annotated[str, Argument(help="A run, or any dataset or model.")] = "quickstart",
    output: Annotated[Path | None, Option(help="Write the page to this file.")] = None,
    open: Annotated[bool, Option("--open", help="Show it in the browser.")] = False,
) -> None:
    """Show the report on a run: its data, training and results. Draw one for a dataset without a report.

    Example: tokenmill report quickstart
    """
    from flows.commands.report import find_or_draw

    page = find_or_draw(what, current_home().store, output)
    print(page, file=results())
    if open:
        typer.launch(page.as_uri())
