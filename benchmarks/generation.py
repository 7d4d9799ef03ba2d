"""Measure generation with the cache in tokens a second, beside `transformers` on the same weights.

The model is GPT-2 124M in float32.

    python -m benchmarks.generation [--new 64] [--rounds 3]

The two take turns in one process. The weights are random, because their values do not change the speed.
"""

import argparse
import statistics
import tempfile
import time

import torch
from transformers import GPT2LMHeadModel

from gpt.config import gpt_config
from gpt.generate import Sampling, generate
from gpt.model import GPT
from gpt.weights import save_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="gpt2", help="named size of the model")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens to generate")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    ours = GPT(gpt_config(arguments.size)).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_model(ours, folder)
        theirs = GPT2LMHeadModel.from_pretrained(folder).eval()

    for batch, wanted in ((1, 1.15), (8, 1.5)):
        prompts = torch.randint(0, 50000, (batch, arguments.prompt))

        def run_ours(prompts: torch.Tensor = prompts) -> list[list[int]]:
            return generate(ours, prompts.tolist(), Sampling(arguments.new))

        def run_theirs(prompts: torch.Tensor = prompts) -> list[list[int]]:
            out = theirs.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=arguments.new,
                min_new_tokens=arguments.new,
                do_sample=False,
                pad_token_id=0,
            )
            return out[:, arguments.prompt :].tolist()

        speeds: dict[str, list[float]] = {"tokenmill": [], "transformers": []}
        for _ in range(arguments.rounds):
            for name, run in (("tokenmill", run_ours), ("transformers", run_theirs)):
                before = time.perf_counter()
                rows = run()
                speeds[name].append(sum(map(len, rows)) / (time.perf_counter() - before))
        a, b = (statistics.median(s) for s in speeds.values())
        print(f"batch {batch}: tokenmill {a:.1f}, transformers {b:.1f} tokens/s: {a / b:.2f} times, wanted {wanted}")


if __name__ == "__main__":
    main()
