"""One of several processes that train together; `test_parallel.py` starts it through torchrun.

`parallel_worker.py FOLDER` writes the losses of each way to share the work into `<way>-<optimizer>.json`.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

import torch

from gpt import parallel
from gpt.batch import Batch
from gpt.checkpoint import Checkpoints
from gpt.config import gpt_config
from gpt.model import GPT
from gpt.train import Interrupted, Stepped, TrainConfig, train

WAYS = [("ddp", "adamw"), ("ddp", "muon"), ("fsdp", "adamw"), ("fsdp", "muon")]


def batches(step: int, micro: int) -> Batch:
    generator = torch.Generator().manual_seed(100 * step + micro)
    ids = torch.randint(0, 97, (2, 17), generator=generator)
    targets = ids[:, 1:].clone()
    targets[:, : 3 * micro] = -100  # every micro-batch has a different number of targets
    return Batch(ids[:, :-1], targets)


def make_model() -> GPT:
    torch.manual_seed(0)
    return GPT(gpt_config("pico", vocabulary=97, context=32, dropout=0.1))


def losses(folder: Path, way: str, optimizer: str, stop_after: int | None = None) -> list[float]:
    """Train from the checkpoint in the folder, if there is one, and return the loss of every step."""
    seen: list[float] = []
    config = TrainConfig(
        steps=6, accumulation=4, learning_rate=1e-3, optimizer=optimizer, log_every=1, sharded=way == "fsdp"
    )

    def record(event: object) -> None:
        if isinstance(event, Stepped):
            seen.append(event.metrics["train/loss"])

    def stop() -> bool:
        return stop_after is not None and len(seen) >= stop_after

    with suppress(Interrupted):
        train(make_model(), batches, config, checkpoints=Checkpoints(folder), on_event=record, should_stop=stop)
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with parallel.join():
        for way, optimizer in WAYS:
            # Only the first process sees events, so only it requests the stop. Both must stop.
            seen = losses(folder / f"{way}-{optimizer}", way, optimizer, stop_after=2)
            seen += losses(folder / f"{way}-{optimizer}", way, optimizer, stop_after=2)
            if parallel.rank() == 0:
                (folder / f"{way}-{optimizer}.json").write_text(json.dumps(seen))
