import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt.batch import IGNORE, Batch
from gpt.checkpoint import Checkpoints
from gpt.loss import next_token_loss
from gpt.model import GPT
from gpt.optim import Optimizer
from gpt.train import Diverged, Evaluated, Event, Finished, Interrupted, Saving, Started, Stepped, TrainConfig, train

pytestmark = pytest.mark.integration

Make = Callable[..., GPT]
MakeBatches = Callable[..., Callable[[int, int], Batch]]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def assert_identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def losses(events: list[Event]) -> dict[int, float]:
    return {e.step: e.metrics["train/loss"] for e in events if isinstance(e, Stepped)}


class StopAt:
    """A `should_stop` that returns true from a certain micro-batch on, counted over the whole run."""

    def __init__(self, micro_batch: int):
        self.left = micro_batch

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


RESUMED = {"steps": 9, "accumulation": 3, "learning_rate": 3e-3, "warmup": 2, "log_every": 1, "checkpoint_every": 4}


@pytest.mark.parametrize(("preset", "optimizer"), [("gpt2", "adamw"), ("modern", "muon")])
@pytest.mark.parametrize("cut", [3, 13, 20])  # at a step's start, and in the middle of an accumulation
def test_stopped_run_resumes_bit_identical(
    make_model: Make, make_batches: MakeBatches, tmp_path: Path, preset: str, optimizer: str, cut: int
) -> None:
    config = TrainConfig(**RESUMED, optimizer=optimizer)
    whole: list[Event] = []
    straight = make_model(preset, dropout=0.2)
    train(straight, make_batches(), config, checkpoints=Checkpoints(tmp_path / "whole"), on_event=whole.append)

    parts: list[Event] = []
    checkpoints = Checkpoints(tmp_path / "parts")
    with pytest.raises(Interrupted, match=f"after {cut // 3} steps"):
        train(
            make_model(preset, dropout=0.2),
            make_batches(),
            config,
            checkpoints=checkpoints,
            on_event=parts.append,
            should_stop=StopAt(cut),
        )
    torch.manual_seed(99)  # as a new process, with another state of the random generator
    resumed = make_model(preset, seed=5, dropout=0.2)
    train(resumed, make_batches(), config, checkpoints=checkpoints, on_event=parts.append)

    assert Started(cut // 3, resumed=True) in parts
    assert losses(parts) == losses(whole)
    assert_identical(weights(resumed), weights(straight))
    ends = [Checkpoints.load(Checkpoints(tmp_path / name).latest()) for name in ("whole", "parts")]  # type: ignore[arg-type]
    assert_identical(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]


def test_killed_run_resumes_bit_identical(make_model: Make, make_batches: MakeBatches, tmp_path: Path) -> None:
    config = TrainConfig(**RESUMED)
    straight = make_model(dropout=0.1)
    train(straight, make_batches(), config)

    def die_at_step_6(step: int, micro: int) -> Batch:
        if step == 6 and micro == 1:
            raise KeyboardInterrupt
        return make_batches()(step, micro)

    with pytest.raises(KeyboardInterrupt):
        train(make_model(dropout=0.1), die_at_step_6, config, checkpoints=Checkpoints(tmp_path))
    resumed, events = make_model(seed=3, dropout=0.1), []
    train(resumed, make_batches(), config, checkpoints=Checkpoints(tmp_path), on_event=events.append)
    assert events[0] == Started(4, resumed=True)
    assert_identical(weights(resumed), weights(straight))


def test_run_resumes_from_the_checkpoint_before_a_damaged_one(
    make_model: Make, make_batches: MakeBatches, tmp_path: Path
) -> None:
    config = TrainConfig(**RESUMED)
    straight = make_model()
    train(straight, make_batches(), config, checkpoints=Checkpoints(tmp_path))
    file = tmp_path / "step-00000009" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    again, events = make_model(seed=3), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(again, make_batches(), config, checkpoints=Checkpoints(tmp_path), on_event=events.append)
    assert events[0] == Started(8, resumed=True)
    assert_identical(weights(again), weights(straight))


def test_number_of_evaluations_changes_no_weight(make_model: Make, make_batches: MakeBatches) -> None:
    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        torch.rand(7)
        return {"val/loss": next_token_loss(model, make_batches()(0, 0))[0].item()}  # type: ignore[arg-type]

    ends = []
    for every in (2, 4):
        model = make_model(dropout=0.2)
        config = TrainConfig(steps=8, evaluate_every=every)
        train(model, make_batches(), config, evaluate=evaluate)
        ends.append(weights(model))
    assert_identical(*ends)


@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_accumulated_micro_batches_equal_one_large_batch(
    make_model: Make, make_batches: MakeBatches, ignored: float
) -> None:
    small = make_batches(rows=2, ignored=ignored)

    def large(step: int, micro: int) -> Batch:
        parts = [small(step, m) for m in range(4)]
        return Batch(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))

    counts = {int((small(0, m).targets != IGNORE).sum()) for m in range(4)}
    assert len(counts) == (1 if ignored == 0 else 4)
    ends, seen = [], []
    for batches, accumulation in ((small, 4), (large, 1)):
        model, events = make_model(), []
        config = TrainConfig(steps=5, accumulation=accumulation, learning_rate=1e-3, epsilon=1e-4, log_every=1)
        train(model, batches, config, on_event=events.append)
        ends.append(weights(model))
        seen.append(list(losses(events).values()))
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("preset", "optimizer"), [("gpt2", "adamw"), pytest.param("modern", "muon", marks=pytest.mark.slow)]
)
def test_one_batch_can_be_overfitted(make_model: Make, make_batches: MakeBatches, preset: str, optimizer: str) -> None:
    batch = make_batches()(0, 0)
    model = make_model(preset)
    config = TrainConfig(steps=120, optimizer=optimizer, learning_rate=1e-2, weight_decay=0.0, warmup=10)
    train(model, lambda step, micro: batch, config)
    total, n = next_token_loss(model, batch)
    assert total / n < 0.02


def test_events_are_emitted_in_order(make_model: Make, make_batches: MakeBatches, tmp_path: Path) -> None:
    events: list[Event] = []
    on_disk: list[tuple[int, bool]] = []

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, Saving):
            on_disk.append((event.step, (tmp_path / f"step-{event.step:08d}").exists()))

    config = TrainConfig(steps=5, evaluate_every=2, checkpoint_every=3, log_every=2)
    result = train(
        make_model(),
        make_batches(),
        config,
        evaluate=lambda model: {"val/loss": 1.0},
        checkpoints=Checkpoints(tmp_path),
        on_event=listen,
    )
    assert on_disk == [(3, False), (5, False)]
    emitted = [(type(e), e.step) for e in events]
    assert emitted == [
        (Started, 0),
        (Stepped, 0),
        (Evaluated, 2),
        (Stepped, 2),
        (Saving, 3),
        (Evaluated, 4),
        (Stepped, 4),
        (Evaluated, 5),
        (Saving, 5),
        (Finished, 5),
    ]
    metrics = events[1].metrics  # type: ignore[union-attr]
    assert metrics.keys() >= {
        "train/loss",
        "train/learning_rate",
        "train/gradient_norm",
        "train/tokens_per_second",
        "train/tokens",
        "train/flops_utilisation",
        "train/memory_bytes",
        "train/seconds_to_first_step",
    }
    assert all(math.isfinite(value) for value in metrics.values())
    assert result.step == 5 and result.tokens == 5 * 64 and result.best_step == 2


def test_patience_stops_training_and_best_weights_are_saved(
    make_model: Make, make_batches: MakeBatches, tmp_path: Path
) -> None:
    values = iter([3.0, 2.0, 2.5, 2.4, 1.0])
    kept: dict[float, dict[str, Tensor]] = {}

    def evaluate(model: nn.Module) -> dict[str, float]:
        loss = next(values)
        kept[loss] = weights(model)
        return {"val/loss": loss}

    config = TrainConfig(steps=100, evaluate_every=1, patience=2)
    checkpoints = Checkpoints(tmp_path)
    result = train(make_model(), make_batches(), config, evaluate=evaluate, checkpoints=checkpoints)
    assert (result.step, result.stopped_early, result.best_loss, result.best_step) == (4, True, 2.0, 2)
    assert_identical(Checkpoints.load(checkpoints.best())[0], kept[2.0])  # type: ignore[arg-type]
    again = train(make_model(), make_batches(), config, evaluate=evaluate, checkpoints=checkpoints)
    assert again.step == 4 and again.stopped_early


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_infinite_loss_or_gradient_stops_before_weights_change(
    make_model: Make, make_batches: MakeBatches, tmp_path: Path, what: str
) -> None:
    def loss(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        total, n = next_token_loss(model, batch)
        if state["step"] == 5:
            bad = total * math.nan if what == "loss" else (total - total.detach()) * 1e38 * 1e38 + total.detach()
            return bad, n
        return total, n

    state = {"step": 0}

    def batches(step: int, micro: int) -> Batch:
        state["step"] = step
        return make_batches()(step, micro)

    model, checkpoints = make_model(), Checkpoints(tmp_path)
    with pytest.raises(Diverged, match=f"the {what} at step 5 is not finite.*; the weights of the .* step 5 are good"):
        train(model, batches, TrainConfig(steps=9, checkpoint_every=5), loss=loss, checkpoints=checkpoints)
    good, _, stored = Checkpoints.load(checkpoints.latest())  # type: ignore[arg-type]
    assert stored["step"] == 5
    assert all(t.isfinite().all() for t in good.values())
    assert_identical(good, weights(model))
    with pytest.raises(Diverged) as caught:
        train(make_model(), batches, TrainConfig(steps=9), loss=loss)
    assert "good" not in str(caught.value), "nothing was saved"


def test_step_without_targets_raises(make_model: Make, make_batches: MakeBatches) -> None:
    with pytest.raises(ValueError, match="step 0 has no target that counts"):
        train(make_model(), make_batches(ignored=1.0), TrainConfig(steps=2))


def test_gradients_are_clipped_to_the_configured_norm(make_model: Make, make_batches: MakeBatches) -> None:
    norms = []

    class Spy(Optimizer):
        def step(self) -> None:
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in self.param_groups[0]["params"]]).item())

    with pytest.MonkeyPatch.context() as patch:
        from gpt import train as module

        def spy(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
            return [Spy([{"params": list(model.parameters()), "peak": 1e-3}])]

        patch.setattr(module, "make_optimizers", spy)
        patch.setattr(module, "set_learning_rate", lambda *_: None)
        train(make_model(), make_batches(), TrainConfig(steps=2, clip=0.01))
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


def test_bfloat16_model_learns_with_float32_weights(make_model: Make, make_batches: MakeBatches) -> None:
    batch = make_batches()(0, 0)
    model, events = make_model(), []
    config = TrainConfig(steps=40, learning_rate=1e-2, precision="bfloat16")
    train(model, lambda s, m: batch, config, on_event=events.append)
    assert losses(events)[39] < 1.5
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_blocks_learn_the_same(
    make_model: Make, make_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch, recompute: bool
) -> None:
    compile_block = torch.nn.Module.compile

    def capture(block: nn.Module) -> None:
        """Capture the block as one graph, but generate no code for it, which would take a minute."""
        compile_block(block, backend="aot_eager", fullgraph=True)

    monkeypatch.setattr(torch.nn.Module, "compile", capture)
    curves = []
    for compiled in (False, True):
        events: list[Event] = []
        config = TrainConfig(steps=4, log_every=1, compile=compiled, recompute=recompute)
        train(make_model(), make_batches(), config, on_event=events.append)
        curves.append(losses(events))
    assert curves[1] == pytest.approx(curves[0], rel=1e-5) and len(curves[0]) == 4


def test_threads_are_restored_after_the_run(make_model: Make, make_batches: MakeBatches) -> None:
    before, seen = torch.get_num_threads(), []

    def batches(step: int, micro: int) -> Batch:
        seen.append(torch.get_num_threads())
        return make_batches()(step, micro)

    train(make_model(), batches, TrainConfig(steps=1, threads=before + 1))
    assert seen == [before + 1] and torch.get_num_threads() == before


def test_micro_batches_must_divide_among_the_processes(
    make_model: Make, make_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt.parallel.size", lambda: 2)
    with pytest.raises(ValueError, match="3 micro-batches a step cannot be dealt out to 2 processes"):
        train(make_model(), make_batches(), TrainConfig(steps=1, accumulation=3))
