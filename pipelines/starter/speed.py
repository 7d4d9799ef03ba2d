"""The speed of this machine: a few steps of the model that a config is going to train, on random tokens."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

STEPS = 5
MOST_THREADS = 8  # more make steps of small models slower


def threads() -> int:
    """Return the processor cores that this process may use, at most some."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_THREADS)


def has_gpu() -> bool:
    """Return whether training runs on a GPU."""
    from gpt.machine import device

    return device().type == "cuda"


def seconds_per_step(pretrain: dict[str, Any], vocabulary: int, context: int) -> float:
    """Train a model for a few steps, and return the seconds of a step."""
    import torch

    from gpt.batch import Batch
    from gpt.machine import device
    from gpt.model import GPT
    from gpt.train import Event, Stepped, train
    from pipelines.training.pretrain import PretrainConfig

    config = PretrainConfig.model_validate(pretrain | {"steps": STEPS, "warmup": 0, "log_every": 1})
    model = GPT(config.model.gpt(vocabulary, context)).to(device())
    tokens = torch.randint(vocabulary, (config.batch_size, context + 1))
    times = []

    def note(event: Event) -> None:
        if isinstance(event, Stepped):
            times.append(time.perf_counter())

    batch = Batch(tokens[:, :-1], tokens[:, 1:])
    train(model, lambda step, micro: batch, config, on_event=note)
    return statistics.median(after - before for before, after in zip(times, times[1:], strict=False))
