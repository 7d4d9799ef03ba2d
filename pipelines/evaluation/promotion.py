"""The decision which of two models people get.

A challenger must be significantly better, and no guarded metric may get worse. Trials (`trial.py`) hold what the two
did on items that chose nothing. The promotion gate in `flows/orchestration/gate.py` stores the decision in MLflow's
registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from gpt.config import Config
from pipelines.errors import InputError
from pipelines.evaluation import memorisation
from pipelines.evaluation.classification_metrics import RATIOS
from pipelines.evaluation.tasks import TASKS, TRIAL
from pipelines.numbers import p_value
from pipelines.store.dataset import Dataset

if TYPE_CHECKING:
    from pipelines.evaluation.compare import Difference


class Criterion(Config):
    """What makes one model better than another."""

    task: ClassVar[str]
    metric: str
    """The metric that the challenger must be better at."""
    margin: float = Field(0.0, ge=0)
    """Least improvement of that metric, in its own unit."""
    guard: dict[str, float] = {}
    """Metrics that must not get worse by more than this, each in its own unit."""

    @field_validator("metric")
    @classmethod
    def _metric_of_a_trial(cls, metric: str) -> str:
        return _of_trial(cls.task, metric)

    @field_validator("guard")
    @classmethod
    def _guards_of_a_trial(cls, guard: dict[str, float]) -> dict[str, float]:
        try:
            return {_of_trial(cls.task, metric): tolerance for metric, tolerance in guard.items()}
        except ValueError as error:
            raise ValueError(f"{error}, not {' or '.join(map(repr, guard))}") from None


def _of_trial(task: str, metric: str) -> str:
    """Return the name of a metric of a trial. Before 0.5.0 the gate read evaluations, so configs have their names.

    Raises:
        ValueError: a trial of the task has no such metric.
    """
    stage, _, name = metric.partition("/")
    known = [each for each in TASKS[task].metrics if each not in memorisation.METRICS]
    is_of_a_label = task == "classification" and name.partition("/")[0] in RATIOS
    if stage not in {TRIAL, *(each.stage for each in TASKS.values())} or not (name in known or is_of_a_label):
        raise ValueError(f"the metrics of a trial are {', '.join(f'{TRIAL}/{each}' for each in known)}")
    return f"{TRIAL}/{name}"


class LanguageCriterion(Criterion):
    """What makes one pretrained model better than another."""

    task: ClassVar[str] = "language"
    metric: str = "trial/bits_per_byte"
    """The metric that the challenger must be better at."""


class ClassificationCriterion(Criterion):
    """What makes one classifier better than another."""

    task: ClassVar[str] = "classification"
    metric: str = "trial/f1"
    """The metric that the challenger must be better at."""
    guard: dict[str, float] = {"trial/accuracy": 0.01}
    """Metrics that must not get worse by more than this, each in its own unit."""


class InstructionCriterion(Criterion):
    """What makes one assistant better than another."""

    task: ClassVar[str] = "instruction"
    metric: str = "trial/loss"
    """The metric that the challenger must be better at."""
    guard: dict[str, float] = {"trial/chrf": 1.0}
    """Metrics that must not get worse by more than this, each in its own unit."""


class PromoteConfig(Config):
    """When a newly evaluated model becomes the champion of its name."""

    enabled: bool = True
    """Decide about each newly evaluated model. If false, models are registered and stay what they are."""
    significance: float = Field(0.05, gt=0, lt=1)
    """Chance that any number of challengers that are no better put one of them in a champion's place."""
    language: LanguageCriterion = LanguageCriterion()
    """For pretrained models."""
    classification: ClassificationCriterion = ClassificationCriterion()
    """For classifiers."""
    instruction: InstructionCriterion = InstructionCriterion()
    """For assistants."""

    def criterion(self, task: str) -> Criterion:
        """Return what makes one model of a task better than another."""
        return {"language": self.language, "classification": self.classification, "instruction": self.instruction}[task]

    def reported_metric(self, task: str) -> str:
        """Return the name that the metric of a task's criterion has in evaluations, which report it."""
        return f"{TASKS[task].stage}/{self.criterion(task).metric.partition('/')[2]}"


@dataclass(frozen=True)
class Ruling:
    """A decision of the gate.

    Attributes:
        promoted: whether the challenger becomes the champion.
        why: the reason, in a sentence or two.
        differences: what was compared: champion first, challenger second.
        against_it: whether the challenger lost to a champion. If not, it can still be the newest of a name without one.
        items: a digest of the items that were decided on.
        challenge: how many challengers, this one included, the champion has had on these items.
    """

    promoted: bool
    why: str
    differences: tuple[Difference, ...] = ()
    against_it: bool = False
    items: str = ""
    challenge: int = 1


FEWEST = 10
"""Items that a decision takes at least."""


def level(significance: float, challenge: int) -> float:
    """Return the level of the n-th challenge of a champion on the same items: significance * 2 / (n * (n + 1)).

    This is alpha spending (Foster and Stine 2008): each test spends a part of what the significance allows in all.
    Only a better challenger is promoted, so a two-sided test at this level promotes one that is no better with half
    the probability. The halves of all levels add up to the significance, and the first challenge has all of it.
    """
    return significance * 2 / (challenge * (challenge + 1))


def decide(
    challenger: Dataset, champion: Dataset, config: PromoteConfig, challenge: int = 1, with_guard: bool = True
) -> Ruling:
    """Compare a challenger with the champion by their trials on the same items.

    Args:
        challenger, champion: the trials.
        config: what better means.
        challenge: the number of this challenge of the champion on these items.
        with_guard: also ask for the margin, and for guarded metrics that did not get worse.

    Raises:
        InputError: a metric of the config is none of the trial's.
    """
    from pipelines.evaluation.compare import compare, items_digest, same_items

    statistics = challenger.manifest.statistics
    task = str(statistics["task"])
    criterion = config.criterion(task)
    if not with_guard:
        criterion = criterion.model_copy(update={"guard": {}, "margin": 0.0})
    for name in (criterion.metric, *criterion.guard):
        if name not in statistics:
            known = ", ".join(key for key in statistics if key.startswith(f"{TRIAL}/"))
            raise InputError(f"promote.{task}: {name!r} is no metric of {challenger}; it has {known}.")
    if (n_items := statistics["items"]) < FEWEST:
        return Ruling(False, too_few(n_items))
    if not same_items(champion, challenger):
        return Ruling(False, "The two were judged on different items.", against_it=True)
    significance = level(config.significance, challenge)
    differences = tuple(compare(champion, challenger, significance))
    spent = f" (challenge {challenge} on these items: {config.significance:g} becomes {significance:.3g})"
    promoted, why = _verdict(differences, criterion, significance, spent if challenge > 1 else "")
    return Ruling(promoted, why, differences, not promoted, items_digest(challenger), challenge)


def _verdict(
    differences: Sequence[Difference], criterion: Criterion, significance: float, spent: str
) -> tuple[bool, str]:
    """Return whether the differences are enough, and the reason. `spent` says how the significance became so small."""
    by_metric = {each.metric: each for each in differences}
    if missing := [name for name in (criterion.metric, *criterion.guard) if name not in by_metric]:
        return False, f"{missing[0]} cannot be compared between different tokenizers."
    main = by_metric[criterion.metric]
    shown = _change(main)
    if main.p is not None:
        shown += f", {p_value(main.p) if significance > 0.002 else f'p = {main.p:.2g}'}"
    for name, tolerance in criterion.guard.items():
        if by_metric[name].gain < -tolerance:
            worse = f"{_change(by_metric[name])}, worse by more than {tolerance:g}"
            return False, f"A guarded metric got worse: {worse} ({shown})."
    if main.gain <= 0:
        return False, f"Not better: {shown}."
    if main.gain < criterion.margin:
        return False, f"Not better by the margin of {criterion.margin:g}: {shown}."
    if main.verdict(significance) != "better":
        return False, f"No difference shown at {significance:.3g}: {shown}{spent}."
    return True, f"Better: {shown}{spent}."


def too_few(n_items: int) -> str:
    """Say that there are too few items to decide on."""
    return f"The validation split keeps {n_items} items out to decide on, and a decision takes {FEWEST}."


def _change(each: Difference) -> str:
    return f"{each.metric} {each.first.value:.4g} → {each.second.value:.4g}"
