"""The page of several models side by side: what differs in them, their curves, metrics and texts.

Like a report, the page needs no other file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from pipelines.errors import InputError
from pipelines.evaluation.compare import evaluations_of, judged_on, matching
from pipelines.evaluation.differences import Fact, config_changes, facts
from pipelines.report import charts
from pipelines.report.figures.beside import answer_parts, label_parts, metric_parts, training_parts, written_parts
from pipelines.report.figures.part import Part
from pipelines.report.page import render
from pipelines.report.report import FILE, Section
from pipelines.store.dataset import Dataset
from pipelines.store.store import Store

TEXTS: dict[str, tuple[str, Callable[[Mapping[str, Dataset]], Iterator[Part]]]] = {
    "language": ("What each wrote", written_parts),
    "classification": ("Where one is right and another wrong", label_parts),
    "instruction": ("What each answered", answer_parts),
}
"""By task: the title and the parts of the section that shows what the models said."""


def comparison_page(
    names: Sequence[str], models: Sequence[Dataset], store: Store, significance: float = 0.05, smoothing: float = 0.0
) -> str:
    """Return the page.

    Args:
        names: how the page names the models, all different.
        models: the models.
        store: the store that has them and everything that they were made from.
        significance: the largest p-value that counts.
        smoothing: how much of the value before enters a point of the loss curves of training, 0 to 1.
    """
    by_name = dict(zip(names, models, strict=True))
    sections = [_differences(by_name, store), Section("training", "Training", [*training_parts(by_name, smoothing)])]
    sections += _judged(by_name, store, significance)
    return render(
        FILE,
        title=" against ".join(names),
        subtitle=", ".join(str(model) for model in models),
        tiles=_tiles(by_name, store),
        sections=[section for section in sections if section.parts or section.note],
        chart_style=charts.STYLE,
        footer="Made by tokenmill from the manifests and evaluations of these models and MLflow's record of them.",
    )


def _differences(models: Mapping[str, Dataset], store: Store) -> Section:
    datasets = store.list()
    config = config_changes(list(models.values()), datasets)
    note = "" if config else "Every step that made them has the same config."
    return Section(
        "differences",
        "What differs",
        [
            _table("Config of every step", config, models, note),
            _table("Data, size and time", facts(list(models.values()), datasets), models),
        ],
    )


def _table(title: str, rows: Sequence[Fact], names: Mapping[str, Dataset], note: str = "") -> Part:
    return Part(title, note, columns=("", *names), rows=[row.cells for row in rows], beside=True)


def _judged(models: Mapping[str, Dataset], store: Store, significance: float) -> list[Section]:
    """Return the sections about evaluations: tests if all are of the same items, and what the models said."""
    try:
        evaluations = dict(zip(models, matching([each.ref for each in models.values()], store), strict=True))
        on = next(iter(evaluations.values()))
        sections = [Section("metrics", "Metrics", [*metric_parts(evaluations, significance)], note=judged_on(on))]
    except InputError as error:
        sections = [Section("metrics", "Metrics", note=str(error))]
        everything = store.list("evaluation")
        newest = {name: evaluations_of(model.ref, everything)[:1] for name, model in models.items()}
        evaluations = {name: each[0] for name, each in newest.items() if each}
        if {each.manifest.statistics["task"] for each in evaluations.values()} != {"language"}:
            return sections  # other items were asked than of the others
    if len(evaluations) == len(models):
        title, parts = TEXTS.get(str(next(iter(evaluations.values())).manifest.statistics["task"]), ("", None))
        if parts:
            sections.append(Section("texts", title, [*parts(evaluations)]))
    return sections


def _tiles(models: Mapping[str, Dataset], store: Store) -> list[tuple[str, str]]:
    wanted = ("parameters", "tokens trained on", "training took", "best validation loss")
    return [
        (value, f"{fact.name}, {name}")
        for fact in facts(list(models.values()), store.list())
        if fact.name in wanted and fact.differs
        for name, value in zip(models, fact.values, strict=True)
        if value
    ]
