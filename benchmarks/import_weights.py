"""Measure the peak memory and the time of the import of a GPT-2 124M checkpoint, beside `transformers`.

    python -m benchmarks.import_weights

Each loads the same random weights in its own process. The memory before the import is subtracted.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="gpt2", help="named size of the model")
    parser.add_argument("--alone", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        load(*arguments.alone)
        return

    from gpt.config import gpt_config
    from gpt.model import GPT
    from gpt.weights import save_model

    with tempfile.TemporaryDirectory() as folder:
        save_model(GPT(gpt_config(arguments.size)), folder)
        weights = (Path(folder) / "model.safetensors").stat().st_size
        for name in ("tokenmill", "transformers"):
            command = [sys.executable, "-m", "benchmarks.import_weights", "--alone", name, folder]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            memory, seconds = int(output[-2]), float(output[-1])
            print(f"{name:13s} peak {memory / weights:.2f} of the weights' {weights / 1e6:.0f} MB, {seconds:.2f} s")


def load(name: str, folder: str) -> None:
    """Load once. Print the bytes by which the peak rose, and the seconds."""
    if name == "tokenmill":
        from gpt.weights import load_model

        read = load_model
    else:
        from transformers import GPT2LMHeadModel

        read = GPT2LMHeadModel.from_pretrained
    import torch

    from gpt.machine import peak_memory

    cpu = torch.device("cpu")
    peak = peak_memory(cpu)
    before = time.perf_counter()
    model = read(folder)
    seconds = time.perf_counter() - before
    assert sum(p.numel() for p in model.parameters()) > 0
    print(peak_memory(cpu) - peak, seconds)


if __name__ == "__main__":
    main()
