"""The machine that a config is written for: its processors, and how long they take for a step of training."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gpt.cores import cores

if TYPE_CHECKING:
    from gpt.config import GPTConfig
    from gpt.train import TrainConfig

MEASURED = 5  # steps
OPERATIONS = 6  # of training, for a parameter and a token
MOST_WORK, MOST_GPU_WORK = 2e11, 2e14  # operations of a step that is tried
MOST_THREADS = 8  # more make steps of small models slower
SECONDS, GPU_SECONDS = 210.0, 600.0  # of training in a run


@dataclass(frozen=True)
class Size:
    """A model that suits an amount of tokens, and its windows in a step."""

    tokens: float
    layers: int
    heads: int
    width: int
    context: int
    batch: int


@dataclass(frozen=True)
class Machine:
    """The processors that train: a GPU, or some threads of a CPU."""

    has_gpu: bool
    threads: int

    @property
    def budget(self) -> float:
        """The seconds that training may take."""
        return GPU_SECONDS if self.has_gpu else SECONDS

    def training_keys(self) -> dict[str, Any]:
        """Return the keys of a training that depend on the machine."""
        return {"precision": "bfloat16"} if self.has_gpu else {"threads": self.threads}

    def seconds_per_step(self, size: Size, vocabulary: int, context: int) -> float:
        """Train a model for a few steps on random tokens, and return the seconds of the fastest."""
        from gpt.train import TrainConfig
        from pipelines.training.pretrain import ModelConfig

        model = ModelConfig(preset="modern", layers=size.layers, heads=size.heads, width=size.width)
        config = TrainConfig(steps=MEASURED, optimizer="muon", **self.training_keys())
        return seconds_per_step(model.gpt(vocabulary, context), config, size.batch)


def seconds_per_step(architecture: GPTConfig, config: TrainConfig, batch: int) -> float:
    """Train a model for a few steps on random tokens, and return the seconds of the fastest.

    Args:
        architecture: the model's.
        config: the settings of the training that its speed depends on.
        batch: windows in a step.
    """
    import torch

    from gpt.batch import Batch
    from gpt.machine import device
    from gpt.model import GPT
    from gpt.train import Event, Stepped, TrainConfig, train

    settings = config.model_dump(include={"optimizer", "threads", "precision", "recompute"})
    with torch.random.fork_rng():
        gpt = GPT(architecture).to(device())
        tokens = torch.randint(architecture.vocabulary, (batch, architecture.context + 1))
    inputs, times = Batch(tokens[:, :-1], tokens[:, 1:]), []

    def note(event: Event) -> None:
        if isinstance(event, Stepped):
            times.append(time.perf_counter())

    train(gpt, lambda step, micro: inputs, TrainConfig(steps=MEASURED, log_every=1, **settings), on_event=note)
    return min(after - before for before, after in pairwise(times))  # other work on the machine may end


def seconds_per_token(architecture: GPTConfig, config: TrainConfig, batch: int) -> float | None:
    """Return the seconds that training takes for a token, measured on this machine; None if trying takes too long."""
    from gpt.machine import device

    work = OPERATIONS * parameters_of(architecture) * architecture.context
    most = int((MOST_WORK if device().type == "cpu" else MOST_GPU_WORK) / work)
    if not most:
        return None
    windows = min(batch, most)
    return seconds_per_step(architecture, config, windows) / (windows * architecture.context)


def parameters_of(architecture: GPTConfig) -> int:
    """Return how many parameters a model has. None of them is made."""
    import torch

    from gpt.model import GPT

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(architecture).parameters())


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    from gpt.machine import device

    return Machine(device().type == "cuda", min(cores(), MOST_THREADS))
