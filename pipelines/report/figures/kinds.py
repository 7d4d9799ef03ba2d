"""What there is to see in each kind of dataset: figures and tables for reports, and for MLflow's pages of each run.

`parts` is the whole of it: for a dataset, the pictures and tables that show what is in it. Texts in them come from
users' data; whoever writes them into a page escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from pipelines.report.figures.evaluation import evaluation_parts
from pipelines.report.figures.part import Part
from pipelines.report.figures.text import corpus_parts, examples_parts
from pipelines.report.figures.tokens import tokens_parts
from pipelines.report.figures.training import embedding_parts, training_parts
from pipelines.store.dataset import Dataset


def parts(dataset: Dataset, inputs: Mapping[str, Dataset], warn: Callable[[str], None]) -> Iterator[Part]:
    """What there is to see in a dataset. What cannot be drawn is warned of: no result depends on it.

    Args:
        inputs: what it was made from, by role; figures that need an input that is not among them are left out.
    """
    try:
        yield from _parts(dataset, inputs)
    except Exception as error:
        warn(f"not all of {dataset} could be drawn ({type(error).__name__}: {error})")


def _parts(dataset: Dataset, inputs: Mapping[str, Dataset]) -> Iterator[Part]:
    kind = dataset.manifest.kind
    if kind == "corpus":
        yield from corpus_parts(dataset)
    elif kind == "examples":
        yield from examples_parts(dataset)
    elif kind == "tokens":
        yield from tokens_parts(dataset, inputs.get("corpus"))
    elif kind == "model":
        yield from training_parts(dataset)
        if dataset.manifest.statistics.get("task") == "language":
            yield from embedding_parts(dataset, inputs.get("tokens"))
    elif kind == "evaluation":
        yield from evaluation_parts(dataset)
