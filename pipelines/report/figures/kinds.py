"""The figures and tables about each kind of dataset, for reports and for MLflow's page about each run.

Texts in them come from users' data, so a page must escape them.
"""

from collections.abc import Callable, Iterator, Mapping

from pipelines.report.figures.evaluation import evaluation_parts
from pipelines.report.figures.part import Part
from pipelines.report.figures.text import corpus_parts, examples_parts
from pipelines.report.figures.tokens import tokens_parts
from pipelines.report.figures.training import model_parts
from pipelines.store.dataset import Dataset

DRAWN: dict[str, Callable[[Dataset, Mapping[str, Dataset]], Iterator[Part]]] = {
    "corpus": corpus_parts,
    "examples": examples_parts,
    "tokens": tokens_parts,
    "model": model_parts,
    "evaluation": evaluation_parts,
}


def parts(dataset: Dataset, inputs: Mapping[str, Dataset], warn: Callable[[str], None]) -> Iterator[Part]:
    """Yield the parts about a dataset. A part that cannot be drawn is a warning: no result depends on it.

    Args:
        dataset: what the parts show.
        inputs: the datasets that it was made from, by role; figures that need another input are left out.
        warn: receives a sentence if drawing fails.
    """
    try:
        if draw := DRAWN.get(dataset.manifest.kind):
            yield from draw(dataset, inputs)
    except Exception as error:
        warn(f"not all of {dataset} could be drawn ({type(error).__name__}: {error})")
