"""The training loop for pretraining and fine-tuning. It emits events and imports no logger.

The batches, the learning rate and the dropout of a step depend only on the step's number. To resume, the loop restores
the parameters, the optimizers and a few numbers. A resumed run is therefore bit-identical to one that never stopped.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gpt import parallel
from gpt.batch import Batch
from gpt.checkpoint import Checkpoints
from gpt.loss import next_token_loss
from gpt.machine import lay_out_for_training, measure_peak, peak_memory
from gpt.model import GPT, Block
from gpt.optim import (
    OptimizerConfig,
    learning_rate,
    make_optimizers,
    optimizer_tensors,
    restore_optimizers,
    set_learning_rate,
)


class TrainConfig(OptimizerConfig):
    """Settings of the training loop."""

    accumulation: int = Field(1, gt=0)
    """Micro-batches in a step, over all processes together."""
    clip: float = Field(1.0, ge=0)
    """Largest norm of the gradient, which is scaled down to it. 0 disables it."""
    seed: int = Field(0, ge=0)
    """Seed of the dropout."""
    evaluate_every: int = Field(250, gt=0)
    """Steps from one evaluation to the next."""
    checkpoint_every: int = Field(250, gt=0)
    """Steps from one checkpoint to the next."""
    log_every: int = Field(10, gt=0)
    """Steps from one report of the metrics to the next."""
    patience: int | None = Field(None, gt=0)
    """Evaluations without a better val/loss before stopping."""
    threads: int | None = Field(None, gt=0)
    """Torch's CPU threads; unset leaves them as they are."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of matrix products (autocast)."""
    compile: bool = False
    """Compile the blocks with torch.compile."""
    recompute: bool = False
    """Activation checkpointing: less memory, a third more work."""
    sharded: bool = False
    """With several processes: FSDP2 in place of DDP."""


Metrics = dict[str, float]
"""Values by name, such as `train/loss`."""

Batches = Callable[[int, int], Batch]
"""The micro-batch of (step, micro-batch number), a pure function of the two."""

Loss = Callable[[Any, Batch], tuple[Tensor, Tensor]]
"""The sum of the losses of a model on a batch, with its gradient, and the number of losses summed."""


@dataclass(frozen=True)
class Started:
    """Training starts at `step`, which is above 0 when a run resumes."""

    step: int
    resumed: bool


@dataclass(frozen=True)
class Stepped:
    """Optimizer step number `step`, counted from 0, is done.

    The event is emitted every `log_every` steps and after the last step.
    """

    step: int
    metrics: Metrics


@dataclass(frozen=True)
class Evaluated:
    """The model was evaluated after `step` optimizer steps."""

    step: int
    metrics: Metrics


@dataclass(frozen=True)
class Saving:
    """A checkpoint of the run after `step` steps is about to be saved."""

    step: int


@dataclass(frozen=True)
class Finished:
    """Training is over after `step` steps."""

    step: int
    stopped_early: bool


Event = Started | Stepped | Evaluated | Saving | Finished


@dataclass
class TrainResult:
    """The end of a training run. The model has the last weights; the best ones are in the checkpoints.

    Attributes:
        step: number of optimizer steps done.
        stopped_early: whether the validation loss stopped falling before the last step.
        tokens: number of input tokens read, including padding, over all processes.
        best_loss: lowest validation loss, None without an evaluation.
        best_step: number of steps before the evaluation with that loss.
    """

    step: int
    stopped_early: bool
    tokens: int
    best_loss: float | None
    best_step: int | None


class Interrupted(Exception):
    """Training stopped because `should_stop` returned true. A checkpoint of the last whole step is saved."""

    def __init__(self, step: int):
        super().__init__(f"training was interrupted after {step} steps: run it again to go on from there")


class Diverged(Exception):
    """The loss or the gradient is infinite or not a number."""

    def __init__(self, step: int, what: str, saved_step: int | None = None):
        kept = "" if saved_step is None else f"; the weights of the checkpoint at step {saved_step} are good"
        super().__init__(
            f"the {what} at step {step} is not finite: lower the learning rate, lengthen the warm-up or clip "
            f"gradients{kept}"
        )


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    *,
    loss: Loss = next_token_loss,
    evaluate: Callable[[nn.Module], Metrics] | None = None,
    checkpoints: Checkpoints | None = None,
    on_event: Callable[[Event], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train a model in place, from its newest checkpoint if there is one.

    Args:
        model: any module that `loss` can call.
        batches: returns the micro-batch of (step, micro-batch number). It must be a pure function of the two.
        config: settings of the loop and the optimizers.
        loss: returns a sum of losses and the number of losses summed. A step's sum is divided once, by its total count.
        evaluate: returns metrics of the model. `val/loss` among them decides which weights are best and when to stop.
        checkpoints: where to save; None saves nothing.
        on_event: called with each event, in the first process only.
        should_stop: called before every micro-batch. True drops the unfinished step and interrupts training.

    Raises:
        Diverged: the loss or the gradient is not finite. The parameters keep the values of the last good step.
        Interrupted: `should_stop` returned true. A checkpoint is saved.
        ValueError: a step has no target that counts, or its micro-batches do not divide among the processes.
    """
    emit = on_event if on_event is not None and parallel.rank() == 0 else (lambda event: None)
    with _threads(config.threads):
        run = _Run(model, batches, config, loss, checkpoints, emit)
        emit(Started(run.step, run.resumed))
        while run.step < config.steps and not run.out_of_patience:
            if not run.take_step(should_stop):
                run.save()
                raise Interrupted(run.step)
            if evaluate is not None and (run.step % config.evaluate_every == 0 or run.step == config.steps):
                run.evaluate(evaluate)
            if run.step % config.checkpoint_every == 0:
                run.save()
        run.save()
    emit(Finished(run.step, run.out_of_patience))
    return TrainResult(run.step, run.out_of_patience, run.tokens, run.best_loss, run.best_step)


STATE = ("step", "tokens", "stale", "best_loss", "best_step")
"""Numbers of a run that its checkpoints store. `stale` counts the evaluations since the best one."""


class _Run:
    """The state of a training run: model, optimizers and counters."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        config: TrainConfig,
        loss: Loss,
        checkpoints: Checkpoints | None,
        emit: Callable[[Event], None],
    ):
        self.model, self.batches, self.config = model, batches, config
        self.checkpoints, self.emit = checkpoints, emit
        self.device = next(model.parameters()).device
        if config.accumulation % parallel.size():
            raise ValueError(
                f"{config.accumulation} micro-batches a step cannot be dealt out to {parallel.size()} processes: "
                "make accumulation a multiple of their number"
            )
        self.step = self.tokens = self.stale = 0
        self.best_loss: float | None = None
        self.best_step: int | None = None
        self.saved_step: int | None = None
        lay_out_for_training(model)
        self.resumed = self._restore_model()
        for module in model.modules():
            if isinstance(module, GPT):
                module.recompute = config.recompute
            if isinstance(module, Block) and config.compile:
                module.compile()
        self.objective = parallel.distribute(Objective(model, loss), config.sharded)
        self.optimizers = make_optimizers(model, config)
        if self.resumed:
            restore_optimizers(model, self.optimizers, self._optimizer_tensors)
            del self._optimizer_tensors
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.speed = _Speedometer(model, self.device, config)
        model.train()

    @property
    def out_of_patience(self) -> bool:
        return self.config.patience is not None and self.stale >= self.config.patience

    def take_step(self, should_stop: Callable[[], bool] | None) -> bool:
        """Do one optimizer step and return true, or change nothing and return false if the run should stop."""
        config, total, count, tokens = self.config, 0.0, 0.0, self.tokens
        micros = range(parallel.rank(), config.accumulation, parallel.size())  # of this process
        for micro in micros:
            if should_stop is not None and parallel.any_process(should_stop(), when=micro == micros[0]):
                for optimizer in self.optimizers:
                    optimizer.zero_grad()
                return False
            batch = self.batches(self.step, micro).to(self.device)
            torch.manual_seed(_dropout_seed(config.seed, self.step, micro))
            with parallel.gradient_exchange(self.objective, micro == micros[-1]), self._autocast():
                loss, n = self.objective(batch)
                loss.backward()
            total, count = total + loss.detach(), count + n
            tokens += batch.inputs.numel() * parallel.size()
        total, count = parallel.sum_over_processes(total, count, self.device)
        self.tokens = tokens
        self._apply(total, count)
        self.step += 1
        return True

    def _apply(self, total: float, count: float) -> None:
        """Average and clip the gradients, update the parameters, and emit the metrics.

        Args:
            total: sum of the losses over all micro-batches and processes.
            count: number of losses summed.
        """
        config, step = self.config, self.step
        if count == 0:
            raise ValueError(f"step {step} has no target that counts: nothing in its batches is to be learnt")
        if not math.isfinite(total):
            raise Diverged(step, "loss", self.saved_step)
        # Gradients are those of the sum of losses, averaged over processes. This factor makes them those of the mean.
        average = parallel.size() / count
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = parallel.gather(torch.nn.utils.get_total_norm(gradients)).item() * average
        if not math.isfinite(norm):
            raise Diverged(step, "gradient", self.saved_step)
        clipped = min(1.0, config.clip / (norm + 1e-6)) if config.clip else 1.0
        torch._foreach_mul_(gradients, average * clipped)
        set_learning_rate(self.optimizers, step, config)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % config.log_every == 0 or step == config.steps - 1:
            metrics = {
                "train/loss": total / count,
                "train/learning_rate": learning_rate(step, config),
                "train/gradient_norm": norm,
                "train/tokens": self.tokens,
                **self.speed.read(self.tokens),
            }
            self.emit(Stepped(step, metrics))

    def evaluate(self, evaluate: Callable[[nn.Module], Metrics]) -> None:
        """Evaluate the model, and save its weights if they are the best so far."""
        with self.speed.paused():
            self.model.eval()
            with torch.no_grad(), self._autocast(), parallel.unsharded(self.objective):
                metrics = evaluate(self.model)
            self.model.train()
            self.emit(Evaluated(self.step, metrics))  # may have the model write samples
            if (loss := metrics.get("val/loss")) is not None:
                self._compare_with_best(loss)

    def _compare_with_best(self, loss: float) -> None:
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step, self.stale = loss, self.step, 0
            if self.checkpoints is not None:
                weights = parallel.gather_all(self.model.state_dict())
                if parallel.rank() == 0:
                    self.checkpoints.save_best(self.step, weights, self._state())
        else:
            self.stale += 1

    def save(self) -> None:
        """Save a checkpoint, unless this step already has one."""
        if self.checkpoints is None or self.saved_step == self.step:
            return
        with self.speed.paused():
            weights = parallel.gather_all(self.model.state_dict())
            moments = parallel.gather_all(optimizer_tensors(self.model, self.optimizers))
            if parallel.rank() == 0:
                self.emit(Saving(self.step))
                self.checkpoints.save(self.step, weights, moments, self._state())
            parallel.wait()
        self.saved_step = self.step

    def _state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STATE}

    def _restore_model(self) -> bool:
        """Load the newest checkpoint and return true, or return false if there is none."""
        path = None if self.checkpoints is None else self.checkpoints.latest()
        if path is None:
            return False
        weights, self._optimizer_tensors, state = Checkpoints.load(path)
        self.model.load_state_dict(weights)
        for name in STATE:
            setattr(self, name, state[name])
        self.saved_step = self.step
        return True

    def _autocast(self) -> Any:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


class Objective(nn.Module):
    """A model and its loss as one module, so that DDP and FSDP wrap all of the forward pass."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch."""
        return self.loss(self.model, batch)


class _Speedometer:
    """A meter of tokens a second, memory, and the used share of the machine's peak speed."""

    def __init__(self, model: nn.Module, device: torch.device, config: TrainConfig):
        self.device, self.started, self.tokens = device, time.perf_counter(), 0
        self.gpt = next((m for m in model.modules() if isinstance(m, GPT)), None)
        self.peak = measure_peak(device, torch.bfloat16 if config.precision == "bfloat16" else torch.float32)
        self.since, self.first = time.perf_counter(), True

    def read(self, tokens: int) -> Metrics:
        """Return the metrics since the last reading.

        Args:
            tokens: number of tokens since the run began.
        """
        now = time.perf_counter()
        speed = (tokens - self.tokens) / max(now - self.since, 1e-9)
        metrics = {"train/tokens_per_second": speed, "train/memory_bytes": float(peak_memory(self.device))}
        if self.gpt is not None:
            flops = self.gpt.flops_per_token(self.gpt.config.context)
            metrics["train/flops_utilisation"] = speed * flops / (self.peak * parallel.size())
        if self.first:
            metrics["train/seconds_to_first_step"] = now - self.started
        self.since, self.tokens, self.first = now, tokens, False
        return metrics

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent in this context from the speed of training."""
        before = time.perf_counter()
        yield
        self.since += time.perf_counter() - before


def _dropout_seed(seed: int, step: int, micro: int) -> int:
    """Mix three numbers into a seed of 63 bits, so that no two micro-batches share their dropout."""
    return (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + micro * 0x94D049BB133111EB) & (2**63 - 1)


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    """Set the number of torch's CPU threads within this context; None keeps it."""
    before = torch.get_num_threads()
    if n is not None:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
