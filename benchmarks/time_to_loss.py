"""Measure the time to a validation loss of 1.8857 on Shakespeare by character, beside nanoGPT.

    python -m benchmarks.time_to_loss --text tinyshakespeare.txt --nanogpt PATH_OF_ITS_CHECKOUT [--seeds 0 1 2]

nanoGPT's published CPU configuration (4 layers x 128, context 64, batch 12, 2,000 steps) reaches 1.8857 on the whole
validation set; its README says 1.88. It runs here as published. Both read the same text and train on its first 90%
from random weights. The clock runs from the start of the process until the loss is printed. Our loss covers all of
the other 10%.
"""

import argparse
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET = 1.8857
NANOGPT = [
    *("config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=100"),
    *("--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000"),
    *("--lr_decay_iters=2000", "--dropout=0.0"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare.txt, 1,115,394 characters")
    parser.add_argument("--nanogpt", type=Path, help="checkout of karpathy/nanoGPT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=305)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        reach_the_loss(arguments.text, arguments.seed, arguments.steps, arguments.threads)
        return

    theirs = run_nanogpt(arguments.nanogpt, arguments.text) if arguments.nanogpt else None
    for seed in arguments.seeds:
        command = [sys.executable, "-m", "benchmarks.time_to_loss", "--text", str(arguments.text), "--seed", str(seed)]
        command += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
        before = time.perf_counter()
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, loss = time.perf_counter() - before, float(output.split()[-1])
        verdict = "reached" if loss <= TARGET else "MISSED"
        ratio = f", 1/{theirs / seconds:.1f} of nanoGPT's time" if theirs else ""
        print(f"tokenmill, seed {seed}: val loss {loss:.4f} ({verdict}) after {seconds:.1f} s{ratio}", flush=True)


def reach_the_loss(path: Path, seed: int, steps: int, threads: int) -> None:
    """Train and evaluate once, and print the loss as the last word."""
    import torch

    from gpt.batch import Batch
    from gpt.config import gpt_config
    from gpt.loss import next_token_loss
    from gpt.model import GPT
    from gpt.train import TrainConfig, train

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    text = path.read_text()
    ids = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([ids[character] for character in text])
    training, validation = tokens.split([int(0.9 * len(tokens)), len(tokens) - int(0.9 * len(tokens))])
    model = GPT(gpt_config("nano", "modern", vocabulary=len(ids), context=96, layers=3, heads=2))
    T = model.config.context
    starts = torch.randperm(len(training) // T - 1) * T + int(torch.randint(0, T, ()))

    def batches(step: int, micro: int) -> Batch:
        chosen = starts[torch.arange(8 * step, 8 * step + 8) % len(starts)]
        windows = training[chosen[:, None] + torch.arange(T + 1)]  # (B, T + 1)
        return Batch(windows[:, :-1], windows[:, 1:])

    config = TrainConfig(
        steps=steps,
        optimizer="muon",
        learning_rate=6e-3,
        muon_learning_rate=0.01,
        weight_decay=0.0,
        schedule="wsd",
        decay_share=1.0,
        final_share=0.0,
        warmup=10,
    )
    train(model, batches, config)
    model.eval()
    total = count = 0.0
    with torch.no_grad():
        for window in validation.unfold(0, T + 1, T).split(64):
            loss, n = next_token_loss(model, Batch(window[:, :-1], window[:, 1:]))
            total, count = total + loss.item(), count + n.item()
        rest = validation[int(count) :][None]  # shorter than a window
        loss, n = next_token_loss(model, Batch(rest[:, :-1], rest[:, 1:]))
    print((total + loss.item()) / (count + n.item()))


def run_nanogpt(checkout: Path, text: Path) -> float:
    """Return the seconds of nanoGPT's published run, in a copy of its checkout with the prepared text."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "nanoGPT"
        shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "out*"))
        characters = sorted(set(text.read_text()))
        number = {c: i for i, c in enumerate(characters)}
        ids = np.array([number[c] for c in text.read_text()], dtype=np.uint16)
        data = copy / "data" / "shakespeare_char"
        ids[: int(0.9 * len(ids))].tofile(data / "train.bin")
        ids[int(0.9 * len(ids)) :].tofile(data / "val.bin")
        meta = {"vocab_size": len(characters), "itos": dict(enumerate(characters)), "stoi": number}
        (data / "meta.pkl").write_bytes(pickle.dumps(meta))
        before = time.perf_counter()
        command = [sys.executable, "train.py", *NANOGPT]
        output = subprocess.run(command, cwd=copy, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - before
    last = [line for line in output.splitlines() if "val loss" in line][-1]
    print(f"nanoGPT as published: {seconds:.1f} s; its own estimate at the end: {last}", flush=True)
    return seconds


if __name__ == "__main__":
    main()
