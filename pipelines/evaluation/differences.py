"""What differs between models: their data, sizes, time and device, and the config of every step that made them.

The manifests have all of it: those of the models, and those of the datasets that the models were made from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.changes import changes, expand, flat
from pipelines.numbers import duration
from pipelines.store.dataset import Dataset
from pipelines.store.kinds import kind_of
from pipelines.store.lineage import origins


@dataclass(frozen=True)
class Fact:
    """A fact about each of several models; empty for a model that has no such thing."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the models differ in it."""
        return len(set(self.values)) > 1

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table: the name and the values, or `same` in place of a value that all have."""
        return self.name, *(self.values if self.differs else (self.values[0], *["same"] * (len(self.values) - 1)))


def facts(models: Sequence[Dataset], datasets: Sequence[Dataset]) -> list[Fact]:
    """Return the data, sizes, time and device of each model, equal or not.

    Args:
        models: the models.
        datasets: every dataset of the store.
    """
    columns = [_facts(model, steps_of(model, datasets)) for model in models]
    names = dict.fromkeys(name for column in columns for name, value in column.items() if value)
    return [Fact(name, tuple(column.get(name, "") for column in columns)) for name in names]


def config_changes(models: Sequence[Dataset], datasets: Sequence[Dataset]) -> list[Fact]:
    """Return every key whose value differs, as `step.key`, over all steps that made each model.

    A step that made only some of the models is one row, with its version.
    """
    chains = [steps_of(model, datasets) for model in models]
    everywhere = {step for step in chains[0] if all(step in each for each in chains)}
    configs = [expand(_config(each, everywhere)) for each in chains]
    found = {key for other in configs[1:] for key in changes(configs[0], other)}
    order = dict.fromkeys(key for config in configs for key in config)
    return [Fact(key, tuple(config.get(key, "") for config in configs)) for key in order if key in found]


def steps_of(model: Dataset, datasets: Sequence[Dataset]) -> dict[str, Dataset]:
    """Return the datasets that a model was made from, by step, and the model itself; the first steps come first.

    A step that was carried out several times, such as pretraining that continues, gets a number from the second on.
    """
    found: dict[str, Dataset] = {}
    times: Counter[str] = Counter()
    for node in origins(model, datasets).nodes():
        if node.dataset:
            step = node.dataset.manifest.step
            times[step] += 1
            found[step if times[step] == 1 else f"{step} {times[step]}"] = node.dataset
    return dict(sorted(found.items(), key=lambda item: item[1].manifest.built_at))


def _config(steps: Mapping[str, Dataset], everywhere: set[str]) -> dict[str, str]:
    found = {}
    for step, dataset in steps.items():
        found[step] = f"v{dataset.manifest.step_version}"
        if step in everywhere:
            found |= {f"{step}.{key}": value for key, value in flat(dataset.manifest.config).items()}
    return found


STATISTICS = {
    "parameters": "parameters",
    "parameters trained": "parameters_trained",
    "steps": "steps",
    "tokens trained on": "tokens_trained",
    "epochs": "epochs",
    "best validation loss": "best_val_loss",
}
"""The statistics of a model that are shown, by their names for people."""


def _facts(model: Dataset, steps: Mapping[str, Dataset]) -> dict[str, str]:
    manifest = model.manifest
    found = {"model": _short(model), "made": f"{manifest.built_at:%Y-%m-%d %H:%M}"}
    for dataset in steps.values():
        kind = kind_of(dataset.manifest.kind)
        if kind.name in found or kind.name in ("lessons", "samples"):
            continue
        found[kind.name] = _short(dataset)
        for count in kind.counts[:1]:
            found[f"{count} in it"] = _number(dataset.manifest.statistics.get(count))
    seconds = sum(each.manifest.built.get("seconds", 0.0) for each in steps.values())
    return {
        **found,
        **{name: _number(manifest.statistics.get(key)) for name, key in STATISTICS.items()},
        "training took": duration(manifest.built.get("seconds", 0.0)),
        "all steps took": duration(seconds),
        "device": str(manifest.built.get("device", "")),
    }


def _short(dataset: Dataset) -> str:
    """Return a reference of a known length, which every command takes."""
    return f"{dataset.ref.kind}@{dataset.ref.fingerprint[:12]}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if value is not None else ""
