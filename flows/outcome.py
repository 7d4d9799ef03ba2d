"""What a run made of one step, as a person reads it."""

from dataclasses import dataclass

from pipelines.chain import STEPS
from pipelines.numbers import counts
from pipelines.store.dataset import Dataset
from pipelines.visible import one_line


@dataclass(frozen=True)
class Outcome:
    """A step that was carried out: its result, how long it took, and whether the result was reused.

    summary: what the step led to, where the result's own numbers do not show it, such as a promotion.
    """

    step: str
    dataset: Dataset
    seconds: float
    reused: bool
    summary: str = ""

    @property
    def took(self) -> str:
        """Return the duration, or that the result was reused."""
        if self.reused:
            return "" if self.summary else "reused"
        return f"{self.seconds:,.1f} s"


_of_this_process: list[Outcome] = []


def new_outcomes() -> list[Outcome]:
    """Return the empty list that a run fills with the outcomes of its steps."""
    global _of_this_process
    _of_this_process = []
    return _of_this_process


def outcomes_so_far() -> list[Outcome]:
    """Return the outcomes of this process's last run, which may have failed."""
    return _of_this_process


def headline(dataset: Dataset) -> str:
    """Return the numbers that a person wants first, in one line."""
    step, statistics = STEPS.get(dataset.manifest.step), dataset.manifest.statistics
    return one_line(step.headline(statistics) if step and step.headline else counts(statistics))


def details(dataset: Dataset) -> str:
    """Return the same in full: for an evaluation, the model beside its baselines."""
    step = STEPS.get(dataset.manifest.step)
    return step.details(dataset) if step and step.details else headline(dataset)
