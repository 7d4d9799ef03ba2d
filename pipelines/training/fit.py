"""The common part of pretraining and fine-tuning: the training loop, with its events passed to the step's listener."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import Field
from torch import nn

from gpt import parallel, train
from gpt.batch import Batch
from gpt.checkpoint import Checkpoints
from gpt.loss import next_token_loss
from gpt.model import GPT
from pipelines.numbers import counted, short
from pipelines.store.step import StepContext, Stopped


class FinetuneConfig(train.TrainConfig):
    """The settings of every fine-tuning."""

    lora_rank: int = Field(8, gt=0)
    """Rank of LoRA's changes, if trainable is lora."""
    lora_alpha: float = Field(16.0, gt=0)
    """LoRA's changes are multiplied by alpha / rank."""


def fit(
    model: nn.Module,
    batches: train.Batches,
    config: train.TrainConfig,
    work: StepContext,
    *,
    evaluate: Callable[[nn.Module], train.Metrics],
    loss: train.Loss = next_token_loss,
    show: Callable[[int], None] = lambda step: None,
) -> train.TrainResult:
    """Train a model, from the last checkpoint of an earlier attempt if there is one. It ends with its best weights.

    Args:
        model: changed in place.
        batches: returns the micro-batch of (step, micro-batch number).
        config: settings of the training.
        work: the context of the running step.
        evaluate: returns metrics of the model. The lowest `val/loss` decides which weights are best.
        loss: returns a sum of losses and the number of losses summed.
        show: called with the step after each evaluation, to log samples of the model's output.

    Raises:
        Stopped: somebody asked the run to end. A checkpoint is saved.
    """
    notes, speed = {"loss": "", "val": "", "speed": ""}, 0.0

    def report(event: train.Event) -> None:
        nonlocal speed
        match event:
            case train.Started(step=step, resumed=True):
                work.listener.warn(f"going on from step {step} of {config.steps}, where an earlier run was stopped")
            case train.Stepped(step=step, metrics=metrics):
                work.listener.metrics(step, metrics)
                now = metrics["train/tokens_per_second"]
                speed = 0.8 * speed + 0.2 * now if speed else now
                notes["loss"], notes["speed"] = f"loss {metrics['train/loss']:.3f}", f"{short(speed)} tokens/s"
                work.listener.progress(step + 1, config.steps, "steps", ", ".join(filter(None, notes.values())))
            case train.Evaluated(step=step, metrics=metrics):
                work.listener.metrics(step, metrics)
                if "val/loss" in metrics:
                    notes["val"] = f"val {metrics['val/loss']:.3f}"
                work.listener.progress(step, config.steps, "steps", ", ".join(filter(None, notes.values())))
                show(step)
            case train.Saving():  # the curves of a run that is killed and resumed then have no hole
                work.listener.flush()
            case train.Finished(step=step, stopped_early=True):
                work.listener.warn(f"stopped at step {step}: validation loss no longer fell")

    try:
        result = train.train(
            model,
            batches,
            config,
            loss=loss,
            evaluate=evaluate,
            checkpoints=Checkpoints(work.scratch / "checkpoints", warn=work.listener.warn),
            on_event=report,
            should_stop=work.should_stop,
        )
    except train.Interrupted as interruption:
        raise Stopped(str(interruption)) from None
    if parallel.size() == 1:  # several processes may hold parts of the model; their launcher loads all of it
        load_best(model, work)
    return result


def load_best(model: nn.Module, work: StepContext) -> None:
    """Load the best weights in the checkpoints of a step into a model, or the last ones if none were evaluated."""
    checkpoints = Checkpoints(work.scratch / "checkpoints", warn=work.listener.warn)
    if best := checkpoints.best() or checkpoints.latest():  # without a validation split, none is the best
        weights, _, _ = checkpoints.load(best)
        model.load_state_dict(weights)
    model.eval()


def mean_loss(model: GPT, batches: Iterable[Batch]) -> float:
    """Return the mean next-token loss over all targets of some batches, in nats."""
    total, count = 0.0, 0
    for batch in batches:
        loss, n = next_token_loss(model, batch)
        total, count = total + loss.item(), count + int(n)
    return total / count


def training_statistics(model: nn.Module, result: train.TrainResult) -> dict[str, Any]:
    """Return the statistics of a model about the training that made it."""
    statistics: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": result.step,
        "tokens_trained": result.tokens,
    }
    if result.best_loss is not None:
        statistics |= {"best_step": result.best_step, "best_val_loss": result.best_loss}
    return statistics


def training_headline(s: Mapping[str, Any]) -> str:
    """Describe a trained model in one line."""
    epochs = f" ({s['epochs']:.1f} epochs)" if "epochs" in s else ""
    best = f", best validation loss {s['best_val_loss']:.3f}" if "best_val_loss" in s else ""
    steps = f"{counted(s['steps'], 'step')}{epochs}"
    return f"{short(s['parameters'])} parameters, {steps}, {short(s['tokens_trained'])} tokens{best}"
