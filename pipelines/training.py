"""What pretraining and fine-tuning share: the loop's events told to whoever runs the step, and padded batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from gpt import parallel
from gpt.batch import IGNORE, Batch, Ids, fill_rows, pad
from gpt.checkpoint import Checkpoints
from gpt.loss import next_token_loss
from gpt.train import (
    Batches,
    Evaluated,
    Event,
    Finished,
    Interrupted,
    Loss,
    Metrics,
    Saving,
    Started,
    Stepped,
    TrainConfig,
    TrainResult,
    train,
)
from pipelines.sample import best_fit
from pipelines.step import Stopped, Work

MODULES = (
    "pipelines.training",
    "gpt.loss",
    "gpt.machine",
    "gpt.model",
    "gpt.optim",
    "gpt.train",
    "gpt.weights",
)
"""Whose code decides what training makes."""


Module = TypeVar("Module", bound=nn.Module)


class FinetuneConfig(TrainConfig):
    """What every fine-tuning can be told."""

    lora_rank: int = Field(default=8, gt=0, description="Rank of LoRA's changes, where trainable is lora.")
    lora_alpha: float = Field(default=16.0, gt=0, description="LoRA's changes are multiplied by alpha / rank.")


def fit(
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    work: Work,
    *,
    evaluate: Callable[[nn.Module], Metrics],
    loss: Loss = next_token_loss,
    show: Callable[[int], None] = lambda step: None,
) -> TrainResult:
    """Train a model, going on from a checkpoint if an earlier attempt left one; it ends with its best weights.

    Args:
        evaluate: metrics of the model; the lowest `val/loss` says which weights are best.
        show: called with the step after each evaluation, to write down what the model says by now.

    Raises:
        Stopped: somebody asked the run to end; the work is saved.
    """
    checkpoints = Checkpoints(work.scratch / "checkpoints")
    note = ""

    def tell(event: Event) -> None:
        nonlocal note
        match event:
            case Started(step=step, resumed=True):
                work.report.warn(f"going on from step {step} of {config.steps}, where an earlier run was stopped")
            case Stepped(step=step, metrics=metrics):
                work.report.metrics(step, metrics)
                note = f"loss {metrics['train/loss']:.3f}, {metrics['train/tokens_per_second']:,.0f} tokens/s"
                work.report.progress(step + 1, config.steps, "steps", note)
            case Evaluated(step=step, metrics=metrics):
                work.report.metrics(step, metrics)
                work.report.progress(step, config.steps, "steps", f"{note}, val {metrics['val/loss']:.3f}")
                show(step)
            case Saving():  # so that a run that is killed and resumed leaves no hole in its curves
                work.report.flush()
            case Finished(step=step, stopped_early=True):
                work.report.warn(f"stopped at step {step}: validation loss no longer fell")

    try:
        result = train(
            model,
            batches,
            config,
            loss=loss,
            evaluate=evaluate,
            checkpoints=checkpoints,
            on_event=tell,
            should_stop=work.should_stop,
        )
    except Interrupted as interruption:
        raise Stopped(str(interruption)) from None
    if parallel.size() == 1:  # else the processes hold parts of it, and who started them loads the whole
        load_best(model, work)
    return result


def load_best(model: Module, work: Work) -> Module:
    """Give a model the best weights that the checkpoints of a step's scratch folder hold."""
    checkpoints = Checkpoints(work.scratch / "checkpoints")
    if best := checkpoints.best():
        weights, _, _ = checkpoints.load(best)
        model.load_state_dict(weights)
    model.eval()
    return model


def training_statistics(model: nn.Module, result: TrainResult) -> dict[str, float | int]:
    """How a training ended, as statistics of the model it made."""
    statistics: dict[str, float | int] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": result.step,
        "tokens_trained": result.tokens,
    }
    if result.best_step is not None and result.best_loss is not None:
        statistics |= {"best_step": result.best_step, "best_val_loss": result.best_loss}
    return statistics


class PaddedBatches:
    """Batches of token sequences of unequal length, as a pure function of the position in training.

    Each epoch visits every sequence once, but for a few that fill no batch, in an order drawn from (seed, epoch).
    Sequences of like length are put together, so that little is padded; which come together changes with the epoch.
    """

    BUCKET = 16  # batches whose sequences are sorted by length among themselves

    def __init__(
        self,
        sequences: Sequence[Ids],
        targets: Sequence[int | Ids],
        batch_size: int,
        accumulation: int,
        seed: int,
        draw: Callable[[np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        """
        Args:
            sequences: token ids of each example.
            targets: a label for each example, or for each of its tokens (`IGNORE` where nothing is to be learnt).
            draw: an epoch's examples, as indices; by default every one once.
        """
        self.sequences, self.targets = sequences, targets
        self.batch_size, self.accumulation, self.seed = min(batch_size, len(sequences)), accumulation, seed
        self.draw = draw or (lambda rng: rng.permutation(len(sequences)))
        self.batches_per_epoch = max(1, len(sequences) // self.batch_size)
        self._epoch = lru_cache(maxsize=2)(self._order)

    def __call__(self, step: int, micro: int) -> Batch:
        epoch, at = divmod(step * self.accumulation + micro, self.batches_per_epoch)
        return self.batch(self._epoch(epoch)[at])

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The examples of these indices as one batch, padded on the right."""
        return pad([self.sequences[i] for i in indices], [self.targets[i] for i in indices])

    def in_order(self) -> list[Batch]:
        """Every example once, the shortest first, for evaluation."""
        order = np.argsort([len(sequence) for sequence in self.sequences], kind="stable")
        return [self.batch(order[at : at + self.batch_size]) for at in range(0, len(order), self.batch_size)]

    def _order(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, epoch))
        drawn = self.draw(rng)[: self.batches_per_epoch * self.batch_size]
        span = self.BUCKET * self.batch_size
        lengths = np.array([len(sequence) for sequence in self.sequences])
        batches = []
        for at in range(0, len(drawn), span):
            bucket = drawn[at : at + span]
            bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
            batches += [bucket[i : i + self.batch_size] for i in range(0, len(bucket), self.batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]


class PackedBatches:
    """The same of sequences that share windows, each its own document with positions from zero, to pad even less.

    A window holds as many sequences as best fit into a context. Which share one is settled once; each epoch visits
    every window once, but for a few that fill no batch, in an order drawn from (seed, epoch).
    """

    def __init__(
        self,
        sequences: Sequence[Ids],
        targets: Sequence[Ids],
        batch_size: int,
        accumulation: int,
        seed: int,
        context: int,
    ) -> None:
        self.sequences, self.targets, self.context = sequences, targets, context
        self.windows = best_fit([len(sequence) for sequence in sequences], context)
        self.batch_size, self.accumulation, self.seed = min(batch_size, len(self.windows)), accumulation, seed
        self.batches_per_epoch = len(self.windows) // self.batch_size
        self._order = lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng((seed, epoch)).permutation(len(self.windows))
        )

    def __call__(self, step: int, micro: int) -> Batch:
        epoch, at = divmod(step * self.accumulation + micro, self.batches_per_epoch)
        return self.batch(self._order(epoch)[at * self.batch_size : (at + 1) * self.batch_size])

    def batch(self, windows: Sequence[int] | np.ndarray) -> Batch:
        """The windows of these numbers as one batch."""
        rows = [self.windows[i] for i in windows]

        def joined(part: Callable[[int], Ids], fill: int) -> Tensor:
            return fill_rows([[value for i in row for value in part(i)] for row in rows], fill, self.context)

        return Batch(
            joined(lambda i: self.sequences[i], 0),
            joined(lambda i: self.targets[i], IGNORE),
            positions=joined(lambda i: range(len(self.sequences[i])), 0),
            documents=joined(lambda i: [i] * len(self.sequences[i]), -1),
        )
