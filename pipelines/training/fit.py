"""What pretraining and fine-tuning share: the loop's events told to whoever runs the step, and padded batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import Field
from torch import nn

from gpt import parallel
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
from pipelines.numbers import short
from pipelines.store.step import StepContext, Stopped

Module = TypeVar("Module", bound=nn.Module)


class FinetuneConfig(TrainConfig):
    """What every fine-tuning can be told."""

    lora_rank: int = Field(default=8, gt=0, description="Rank of LoRA's changes, where trainable is lora.")
    lora_alpha: float = Field(default=16.0, gt=0, description="LoRA's changes are multiplied by alpha / rank.")


def fit(
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    work: StepContext,
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
                work.listener.warn(f"going on from step {step} of {config.steps}, where an earlier run was stopped")
            case Stepped(step=step, metrics=metrics):
                work.listener.metrics(step, metrics)
                note = f"loss {metrics['train/loss']:.3f}, {metrics['train/tokens_per_second']:,.0f} tokens/s"
                work.listener.progress(step + 1, config.steps, "steps", note)
            case Evaluated(step=step, metrics=metrics):
                work.listener.metrics(step, metrics)
                work.listener.progress(step, config.steps, "steps", f"{note}, val {metrics['val/loss']:.3f}")
                show(step)
            case Saving():  # so that a run that is killed and resumed leaves no hole in its curves
                work.listener.flush()
            case Finished(step=step, stopped_early=True):
                work.listener.warn(f"stopped at step {step}: validation loss no longer fell")

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


def load_best(model: Module, work: StepContext) -> Module:
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


def training_headline(s: Mapping[str, Any]) -> str:
    """Describe a trained model in one line."""
    epochs = f" ({s['epochs']:.1f} epochs)" if "epochs" in s else ""
    return (
        f"{short(s['parameters'])} parameters, {s['steps']:,} steps{epochs}, {short(s['tokens_trained'])} tokens, "
        f"best validation loss {s.get('best_val_loss', float('nan')):.3f}"
    )
