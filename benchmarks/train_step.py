"""Measure a training step in tokens a second, beside the GPT-2 of nanoGPT and `transformers` at the same shapes.

    python -m benchmarks.train_step --nanogpt PATH_OF_ITS_CHECKOUT [--threads N] [--steps 8] [--cpu-time]

A step is forward, backward, clipping and fused AdamW. The three have the same architecture and take turns in one
process, in float32. Then each runs alone in its own process, which measures its peak memory.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from gpt.batch import Batch
from gpt.config import GPTConfig
from gpt.loss import next_token_loss
from gpt.machine import peak_memory
from gpt.model import GPT
from gpt.optim import OptimizerConfig, make_optimizers

SHAPES = {
    "4 x 128, context 64, batch 12, vocabulary 65": (4, 4, 128, 64, 12, 65),
    "6 x 192, context 128, batch 8, vocabulary 4096": (6, 6, 192, 128, 8, 4096),
    "GPT-2 124M, context 256, batch 2": (12, 12, 768, 256, 2, 50257),
}
Shape = tuple[int, int, int, int, int, int]
Step = Callable[[], object]


def tokenmill(shape: Shape, ids: torch.Tensor) -> Step:
    layers, heads, width, context, _, vocabulary = shape
    model = GPT(GPTConfig(layers=layers, heads=heads, width=width, context=context, vocabulary=vocabulary)).train()
    optimizers = make_optimizers(model, OptimizerConfig())
    parameters = list(model.parameters())

    def step() -> None:  # a step of one micro-batch, as in the training loop
        total, count = next_token_loss(model, Batch(ids[:, :-1], ids[:, 1:]))
        total.backward()
        gradients = [p.grad for p in parameters]
        norm = torch.nn.utils.get_total_norm(gradients).item() / count.item()
        torch._foreach_mul_(gradients, min(1.0, 1.0 / norm) / count.item())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step


def nanogpt(shape: Shape, ids: torch.Tensor, checkout: Path) -> Step:
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    layers, heads, width, context, _, vocabulary = shape
    config = module.GPTConfig(context, vocabulary, layers, heads, width, dropout=0.0, bias=True)
    model = module.GPT(config).train()
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    return _plain_step(model, lambda: model(inputs, targets)[1])


def transformers(shape: Shape, ids: torch.Tensor) -> Step:
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, heads, width, context, _, vocabulary = shape
    drops = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=vocabulary, n_positions=context, n_embd=width, n_layer=layers, n_head=heads, **drops)
    ).train()
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    return _plain_step(model, lambda: F.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten()))


def _plain_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def make_systems(nanogpt_checkout: Path | None) -> dict[str, Callable[[Shape, torch.Tensor], Step]]:
    found = {"tokenmill": tokenmill, "transformers": transformers}
    if nanogpt_checkout is not None:
        found["nanoGPT"] = lambda shape, ids: nanogpt(shape, ids, nanogpt_checkout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="checkout of karpathy/nanoGPT")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each")
    parser.add_argument("--shapes", type=int, nargs="+", default=[1, 2, 3], help="which of the three, by number")
    parser.add_argument("--cpu-time", action="store_true", help="processor time, for a busy machine and one thread")
    parser.add_argument("--alone", nargs=2, metavar=("NAME", "SHAPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    makers = make_systems(arguments.nanogpt)

    if arguments.alone:
        name, title = arguments.alone
        *_, context, batch, vocabulary = shape = SHAPES[title]
        before = peak_memory(torch.device("cpu"))
        step = makers[name](shape, torch.randint(0, vocabulary, (batch, context + 1)))
        for _ in range(3):
            step()
        print((peak_memory(torch.device("cpu")) - before) / 1e6)
        return

    for title in [list(SHAPES)[number - 1] for number in arguments.shapes]:
        shape = SHAPES[title]
        *_, context, batch, vocabulary = shape
        ids = torch.randint(0, vocabulary, (batch, context + 1))
        steps = {name: make(shape, ids) for name, make in makers.items()}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(arguments.steps + 1):
            for name, step in steps.items():
                before = clock()
                step()
                if turn >= 1:
                    times[name].append(clock() - before)
        del steps
        speeds = {name: batch * context / statistics.median(seconds) for name, seconds in times.items()}
        memory = {name: _memory_alone(name, title, arguments) for name in makers}
        print(title)
        for name, speed in speeds.items():
            ratio = speeds["tokenmill"] / speed
            print(f"  {name:13s}{speed:9.0f} tokens/s, tokenmill has {ratio:.2f} times; {memory[name]:.0f} MB more")


def _memory_alone(name: str, title: str, arguments: argparse.Namespace) -> float:
    command = [
        sys.executable,
        "-m",
        "benchmarks.train_step",
        "--alone",
        name,
        title,
        "--threads",
        str(arguments.threads),
    ]
    if arguments.nanogpt is not None:
        command += ["--nanogpt", str(arguments.nanogpt)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


if __name__ == "__main__":
    main()
