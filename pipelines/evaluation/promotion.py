"""Which of two models should people get: a challenger has to be better, significantly, and worse at nothing guarded.

The decision alone; `flows/promote.py` carries it out in MLflow's registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from gpt.config import Config
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset

if TYPE_CHECKING:
    from pipelines.evaluation.compare import Difference


class Criterion(Config):
    """What makes one model better than another."""

    metric: str = Field(description="The metric that the challenger must be better at.")
    margin: float = Field(default=0.0, ge=0, description="Least improvement of that metric, in its own unit.")
    guard: dict[str, float] = Field(
        default={}, description="Metrics that must not get worse by more than this, each in its own unit."
    )


class LanguageCriterion(Criterion):
    """What makes one pretrained model better than another."""

    metric: str = Field(default="test/bits_per_byte", description="The metric that the challenger must be better at.")


class ClassificationCriterion(Criterion):
    """What makes one classifier better than another."""

    metric: str = Field(default="classify/f1", description="The metric that the challenger must be better at.")
    guard: dict[str, float] = Field(
        default={"classify/accuracy": 0.01},
        description="Metrics that must not get worse by more than this, each in its own unit.",
    )


class InstructionCriterion(Criterion):
    """What makes one assistant better than another."""

    metric: str = Field(default="instruct/loss", description="The metric that the challenger must be better at.")
    guard: dict[str, float] = Field(
        default={"instruct/chrf": 1.0},
        description="Metrics that must not get worse by more than this, each in its own unit.",
    )


class PromoteConfig(Config):
    """When a newly evaluated model becomes the champion of its name."""

    significance: float = Field(
        default=0.05, gt=0, lt=1, description="Largest p-value of a paired test on the held-out items that counts."
    )
    language: LanguageCriterion = Field(default=LanguageCriterion(), description="For pretrained models.")
    classification: ClassificationCriterion = Field(default=ClassificationCriterion(), description="For classifiers.")
    instruction: InstructionCriterion = Field(default=InstructionCriterion(), description="For assistants.")

    def criterion(self, task: str) -> Criterion:
        return {
            "language": self.language,
            "classification": self.classification,
            "instruction": self.instruction,
        }[task]


@dataclass(frozen=True)
class Decision:
    """Whether the challenger wins, why either way, and what was compared: champion first, challenger second."""

    promoted: bool
    why: str
    differences: tuple[Difference, ...] = ()


def decide(challenger: Dataset, champion: Dataset, config: PromoteConfig) -> Decision:
    """Judge a challenger against the champion by their evaluations on the same held-out items.

    Raises:
        InputError: a metric of the config is none of the evaluation's.
    """
    from pipelines.evaluation.compare import compare, gain, same_items

    task = str(challenger.manifest.statistics["task"])
    criterion = config.criterion(task)
    for name in (criterion.metric, *criterion.guard):
        if name not in challenger.manifest.statistics:
            known = ", ".join(key for key in challenger.manifest.statistics if "/" in key and "baseline" not in key)
            raise InputError(f"promote.{task}: {name!r} is no metric of {challenger}; it has {known}.")
    if not same_items(champion, challenger):
        return Decision(False, "The two were judged on different items.")
    differences = tuple(compare(champion, challenger))
    by_metric = {each.metric: each for each in differences}
    if missing := [name for name in (criterion.metric, *criterion.guard) if name not in by_metric]:
        return Decision(False, f"{missing[0]} cannot be compared between different tokenizers.", differences)
    main = by_metric[criterion.metric]
    values = f"{main.metric} {main.first.value:.4g} → {main.second.value:.4g}"
    shown = values if main.p is None else f"{values}, {_p(main.p)}"
    for name, tolerance in criterion.guard.items():
        each = by_metric[name]
        if gain(name, each.difference.value) < -tolerance:
            worse = f"{name} {each.first.value:.4g} → {each.second.value:.4g}, worse by more than {tolerance:g}"
            return Decision(False, f"A guarded metric got worse: {worse} ({shown}).", differences)
    if main.gain < criterion.margin or main.gain <= 0:
        if main.gain <= 0:
            return Decision(False, f"Not better: {shown}.", differences)
        return Decision(False, f"Not better by the margin of {criterion.margin:g}: {shown}.", differences)
    if main.better(config.significance) != "second":
        return Decision(False, f"No difference shown at {config.significance:g}: {shown}.", differences)
    return Decision(True, f"Better: {shown}.", differences)


def _p(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
