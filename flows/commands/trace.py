"""`tokenmill trace`: the origins and results of a dataset or model, and the readers of a source file or document."""

from pathlib import Path

from rich.console import Console, Group
from rich.text import Text
from rich.tree import Tree

from flows.console import standard_output
from pipelines.errors import InputError
from pipelines.numbers import counted
from pipelines.report.graph import to_svg
from pipelines.report.page import render, write_page
from pipelines.store import lineage
from pipelines.store.dataset import Dataset
from pipelines.store.files import file_sha256
from pipelines.store.kinds import kind_of
from pipelines.store.lineage import Node
from pipelines.store.store import Store
from pipelines.visible import one_line

MAX_FILES = 8  # source files of one dataset that a tree shows


def trace(what: str, store: Store, page: Path | None = None, console: Console | None = None) -> None:
    """Draw both trees of a dataset or model, or the results of a source file or document.

    Args:
        what: a dataset or model as anywhere else; a source file by its name, a path to it, or its SHA-256; a
            document or example by its id. The first digits of a hash are enough.
        store: the store to search.
        page: for a dataset or model, also write its lineage as a graph into this HTML file.
        console: where to draw.

    Raises:
        InputError: no dataset, source file or document has this name.
    """
    console = console or standard_output()
    datasets = store.list()
    files = lineage.source_files(file_sha256(Path(what)) if Path(what).is_file() else what, datasets)
    found = lineage.sightings(what, datasets)
    for name in files:
        tree = lineage.outcomes(name, "source", datasets)
        console.print(_heading("What came of", name))
        console.print(draw(tree))
        console.print(_seen_by(tree))
    for each in found:
        tree = lineage.outcomes(str(each.dataset), each.dataset.manifest.kind, datasets)
        console.print(_heading(f"{each.split} document of", str(each.dataset), f"{each.source}, {each.location}"))
        console.print(Text(f"  {one_line(' '.join(each.text.split())[:200])}", "dim"), end="\n\n")
        console.print(draw(tree))
        console.print(_seen_by(tree, held_out=each.split != "train"))
    if not files and not found:
        dataset = _open(what, store)
        console.print(_heading("Where it came from"))
        console.print(draw(lineage.origins(dataset, datasets)))
        console.print()
        console.print(_heading("What was made from it"))
        console.print(draw(lineage.outcomes(str(dataset), dataset.manifest.kind, datasets)))
        if page:
            title, svg = f"Lineage of {dataset}", to_svg(dataset, datasets)
            write_page(page, render("page.html", title=title, svg=svg, sections=()))
            console.print()
            console.print(Text(one_line(f"Drawn in {page}.")))


def draw(node: Node) -> Tree:
    """Return a lineage as a tree for the terminal."""
    tree = Tree(_label(node), guide_style="dim")
    sources = [branch for branch in node.branches if branch.kind == "source"]
    made = [branch for branch in node.branches if branch.kind not in ("source", "report")]  # a report reads everything
    tree.children += [draw(branch) for branch in made + sources[:MAX_FILES]]
    if len(sources) > MAX_FILES:
        tree.add(Text(f"and {len(sources) - MAX_FILES} more source files", "dim"))
    return tree


def _label(node: Node) -> Text | Group:
    kind, _, name = one_line(node.name).partition("/")
    name, _, digits = name.rpartition("@")
    label = Text.assemble((kind, kind_of(node.kind).colour.terminal), "/", (name, "bold"), f"@{digits}")
    if node.role and node.role != kind:
        label.append(f" as {one_line(node.role)}", "dim")
    if node.repeated:
        return label.append(" (drawn above)", "dim")
    if node.dataset:
        return Group(label, Text(_facts(node.dataset), "dim"))
    return label if node.kind == "source" else label.append(" (no longer in the store)", "red")


def _facts(dataset: Dataset) -> str:
    """Return two lines about how a dataset was made; the second is for copying."""
    manifest, statistics = dataset.manifest, dataset.manifest.statistics
    at = manifest.built_at.astimezone()
    counts = [f"{statistics[name]:,} {name}" for name in kind_of(manifest.kind).counts if statistics.get(name)]
    facts = [f"{manifest.step} v{manifest.step_version}", f"{at:%Y-%m-%d %H:%M}", *counts]
    run = manifest.built.get("mlflow_run_id")
    marks = [f"sha256 {manifest.digest[:12]}", *([f"run {run}"] if run else [])]
    return "\n".join(one_line(" · ".join(line)) for line in (facts, marks))


def _seen_by(tree: Node, held_out: bool = False) -> str:
    """Return which models must be trained again if the root of the tree must be deleted."""
    models, reports = (sorted(n.name for n in tree.nodes() if n.kind == kind) for kind in ("model", "report"))
    quoted = f"Reports that may quote it: {', '.join(reports)}.\n" if reports else ""
    if not models:
        return "No model was made of it.\n" + quoted
    if held_out:
        return f"It is held out: {counted(len(models), 'model')} of this dataset trained without it.\n" + quoted
    return f"Models that have seen it, and must be trained again if it has to go: {', '.join(models)}.\n" + quoted


def _heading(words: str, name: str = "", more: str = "") -> Text:
    return Text.assemble(words, " ", (one_line(name), "bold"), (f" ({one_line(more)})" if more else "", "dim"))


def _open(what: str, store: Store) -> Dataset:
    try:
        return store.open(what)
    except InputError as error:
        if Path(what).is_file():
            raise InputError(f"{what} was never read by a published dataset, as it is now.") from None
        raise InputError(f"{error} A source file's name or a document's id would do as well.") from None
