"""`tokenmill report`: the page that a run published, or a new one on whatever belongs to a dataset."""

from __future__ import annotations

from pathlib import Path

from flows.commands.pages import write_page
from pipelines.report.report import FILE, ReportConfig, to_html
from pipelines.store import lineage
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext
from pipelines.store.store import Store


def find_or_draw(what: str, store: Store, output: Path | None = None) -> Path:
    """Where the report on a run lies.

    Args:
        what: the run's name; or any dataset, and if no run published a report of that name, one is drawn that shows the
            dataset, what it came from and what came of it.
        output: the file to write it to; by default a published report stays where it is, and a new one goes to the
            current folder.

    Raises:
        InputError: nothing of this name was published.
    """
    reports = [each for each in store.list("report") if each.ref.name == what.removeprefix("report/")]
    if reports:
        published = reports[-1].file(FILE)
        if output:
            write_page(output, published.read_text(encoding="utf-8"))
        return (output or published).absolute()
    dataset = store.open(what)
    page, _ = to_html(relatives(dataset, store), ReportConfig(), StepContext(store.root))
    path = output or Path(f"{dataset.ref.name}-report.html")
    write_page(path, page)
    return path.absolute()


def relatives(dataset: Dataset, store: Store) -> list[Dataset]:
    """A dataset, what it came from and what came of it, in the order in which they were made."""
    if dataset.ref.kind == "report":
        return [store.open(ref) for ref in dataset.manifest.inputs.values()]
    datasets = store.list()
    trees = (
        lineage.origins(dataset, datasets),
        lineage.outcomes(str(dataset), dataset.ref.kind, datasets),
    )
    near = {str(node.dataset) for tree in trees for node in tree.nodes() if node.dataset and node.kind != "report"}
    return [each for each in datasets if str(each) in near]
