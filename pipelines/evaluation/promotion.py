"""The decision which of two models people get.

A challenger must be significantly better, and no guarded metric may get worse. The promotion gate in
`flows/orchestration/gate.py` stores the decision in MLflow's registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from gpt.config import Config
from pipelines.errors import InputError
from pipelines.numbers import p_value
from pipelines.store.dataset import Dataset

if TYPE_CHECKING:
    from pipelines.evaluation.compare import Difference


class Criterion(Config):
    """What makes one model better than another."""

    metric: str
    """The metric that the challenger must be better at."""
    margin: float = Field(0.0, ge=0)
    """Least improvement of that metric, in its own unit."""
    guard: dict[str, float] = {}
    """Metrics that must not get worse by more than this, each in its own unit."""


class LanguageCriterion(Criterion):
    """What makes one pretrained model better than another."""

    metric: str = "test/bits_per_byte"
    """The metric that the challenger must be better at."""


class ClassificationCriterion(Criterion):
    """What makes one classifier better than another."""

    metric: str = "classify/f1"
    """The metric that the challenger must be better at."""
    guard: dict[str, float] = {"classify/accuracy": 0.01}
    """Metrics that must not get worse by more than this, each in its own unit."""


class InstructionCriterion(Criterion):
    """What makes one assistant better than another."""

    metric: str = "instruct/loss"
    """The metric that the challenger must be better at."""
    guard: dict[str, float] = {"instruct/chrf": 1.0}
    """Metrics that must not get worse by more than this, each in its own unit."""


class PromoteConfig(Config):
    """When a newly evaluated model becomes the champion of its name."""

    significance: float = Field(0.05, gt=0, lt=1)
    """Largest p-value of a paired test on the held-out items that counts."""
    language: LanguageCriterion = LanguageCriterion()
    """For pretrained models."""
    classification: ClassificationCriterion = ClassificationCriterion()
    """For classifiers."""
    instruction: InstructionCriterion = InstructionCriterion()
    """For assistants."""

    def criterion(self, task: str) -> Criterion:
        """Return what makes one model of a task better than another."""
        return {"language": self.language, "classification": self.classification, "instruction": self.instruction}[task]


@dataclass(frozen=True)
class Ruling:
    """Whether the challenger is promoted, why, and what was compared: champion first, challenger second."""

    promoted: bool
    why: str
    differences: tuple[Difference, ...] = ()


def decide(challenger: Dataset, champion: Dataset, config: PromoteConfig) -> Ruling:
    """Compare a challenger with the champion by their evaluations on the same held-out items.

    Raises:
        InputError: a metric of the config is none of the evaluation's.
    """
    from pipelines.evaluation.compare import compare, same_items

    statistics = challenger.manifest.statistics
    task = str(statistics["task"])
    criterion = config.criterion(task)
    wanted = (criterion.metric, *criterion.guard)
    for name in wanted:
        if name not in statistics:
            known = ", ".join(key for key in statistics if "/" in key and "baseline" not in key)
            raise InputError(f"promote.{task}: {name!r} is no metric of {challenger}; it has {known}.")
    if not same_items(champion, challenger):
        return Ruling(False, "The two were judged on different items.")
    differences = tuple(compare(champion, challenger))
    by_metric = {each.metric: each for each in differences}
    if missing := [name for name in wanted if name not in by_metric]:
        return Ruling(False, f"{missing[0]} cannot be compared between different tokenizers.", differences)
    main = by_metric[criterion.metric]
    shown = _change(main) if main.p is None else f"{_change(main)}, {p_value(main.p)}"
    for name, tolerance in criterion.guard.items():
        if by_metric[name].gain < -tolerance:
            worse = f"{_change(by_metric[name])}, worse by more than {tolerance:g}"
            return Ruling(False, f"A guarded metric got worse: {worse} ({shown}).", differences)
    if main.gain <= 0:
        return Ruling(False, f"Not better: {shown}.", differences)
    if main.gain < criterion.margin:
        return Ruling(False, f"Not better by the margin of {criterion.margin:g}: {shown}.", differences)
    if main.verdict(config.significance) != "better":
        return Ruling(False, f"No difference shown at {config.significance:g}: {shown}.", differences)
    return Ruling(True, f"Better: {shown}.", differences)


def _change(each: Difference) -> str:
    return f"{each.metric} {each.first.value:.4g} → {each.second.value:.4g}"
