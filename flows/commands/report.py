"""`tokenmill report`: the page that a run published, or a new one about a dataset and its relatives."""

from pathlib import Path

from pipelines.report.page import write_page
from pipelines.report.report import FILE, ReportConfig, to_html
from pipelines.store import lineage
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext
from pipelines.store.store import Store


def find_or_draw(what: str, store: Store, output: Path | None = None) -> Path:
    """Return the path of the report about a run; without a published report, draw one.

    Args:
        what: the run's name, or any dataset. A new report shows the dataset, its origins and its results.
        store: the store to search.
        output: the file to write; by default a published report stays in place, and a new one goes to the current
            folder.

    Raises:
        InputError: nothing of this name is published.
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
    """Return a dataset, its origins and its results, in the order in which they were made."""
    if dataset.ref.kind == "report":
        return [store.open(ref) for ref in dataset.manifest.inputs.values()]
    datasets = store.list()
    near = lineage.relatives(dataset, datasets)
    return [each for each in datasets if str(each) in near]
