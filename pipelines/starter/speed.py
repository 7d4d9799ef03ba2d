"""The machine that a config is written for: its processors, and how long they take for a step of training."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gpt.cores import cores

MEASURED = 5  # steps
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
        import torch

        from gpt.batch import Batch
        from gpt.machine import device
        from gpt.model import GPT
        from gpt.train import Event, Stepped, train
        from pipelines.training.pretrain import ModelConfig, PretrainConfig

        model = ModelConfig(preset="modern", layers=size.layers, heads=size.heads, width=size.width)
        config = PretrainConfig(steps=MEASURED, optimizer="muon", log_every=1, **self.training_keys())
        with torch.random.fork_rng():
            gpt = GPT(model.gpt(vocabulary, context)).to(device())
            tokens = torch.randint(vocabulary, (size.batch, context + 1))
        batch, times = Batch(tokens[:, :-1], tokens[:, 1:]), []

        def note(event: Event) -> None:
            if isinstance(event, Stepped):
                times.append(time.perf_counter())

        train(gpt, lambda step, micro: batch, config, on_event=note)
        return min(after - before for before, after in pairwise(times))  # other work on the machine may end


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    from gpt.machine import device

    return Machine(device().type == "cuda", min(cores(), MOST_THREADS))
