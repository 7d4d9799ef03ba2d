"""The plan of a run: sizes and steps that suit the amount of text and the time that this machine takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from pipelines.errors import InputError
from pipelines.starter.sources import Task, tasks, text_sources
from pipelines.starter.survey import Kind, Survey
from pipelines.starter.trial import Trial, try_examples, try_ingest
from pipelines.tokens.byte_pairs import train_byte_pairs

SECONDS = 240.0  # of training that a run should take on a CPU
GPU_SECONDS = 600.0
FINETUNING = 0.4  # share of that time for the models that are fine-tuned, if there are any
TRIED_BYTES, TRIED_FILES = 16 << 20, 2_000  # a larger text is not tried
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
SAMPLE = 1 << 20  # bytes of text from which the size of a token is learnt
SMALLEST = 16  # tokens of a window
EVALUATIONS = 8
LEARNT = (8192, 4096, 2048, 1024, 512, 320)
"""Sizes of a vocabulary. A larger one needs more text."""


@dataclass(frozen=True)
class Size:
    """A model for an amount of tokens: blocks, heads, channels, its longest context, and windows in a step."""

    tokens: float
    layers: int
    heads: int
    width: int
    context: int
    batch: int


CPU = (Size(0, 2, 2, 64, 64, 16), Size(3e4, 3, 4, 128, 128, 16), Size(3e5, 4, 4, 256, 128, 16))
GPU = (
    *CPU[:2],
    Size(3e5, 4, 4, 256, 256, 32),
    Size(1e7, 8, 6, 384, 512, 32),
    Size(2e8, 12, 12, 768, 1024, 16),
)


@dataclass(frozen=True)
class Finetuning:
    """The training of a fine-tuned model: steps of `batch` examples."""

    task: Task
    examples: int
    steps: int
    batch: int
    epochs: float
    seconds: float


@dataclass
class Plan:
    """What a config says, and why.

    tokens: those of training, estimated.
    is_tried: whether the whole text was read, and not a sample.
    """

    survey: Survey
    ingest: dict[str, Any]
    share: float
    bytes_per_token: float
    tokens: int
    vocabulary: int
    size: Size
    context: int
    dropout: float
    steps: int
    step_seconds: float
    is_tried: bool
    on_gpu: bool
    threads: int
    finetunings: list[Finetuning] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def epochs(self) -> float:
        """How often training reads the text."""
        return self.steps * self.size.batch * self.context / max(self.tokens, 1)
