"""Measure ingest and tokenize with one and with two workers of each kind.

    python -m benchmarks.workers [--megabytes 1000] [--turns 2] [runner ...]

Each runner works on the same corpus in its own home, with one shared Prefect server. The corpus is the King James
Version with a number in every document, so that no document is a duplicate. The runners take turns, and the better
time counts. The times include the start of the workers. Lines of two workers also show the speed relative to one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.ingest_memory import write_corpus
from pipelines.store.store import Store

RUNNERS = ("threads=1", "threads=2", "processes=1", "processes=2", "dask=2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runners", nargs="*", default=RUNNERS)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = os.environ | {"TOKENMILL_HOME": folder}
        tokenmill(server, "up")
        status = json.loads((Path(folder) / ".tokenmill" / "prefect.json").read_text())
        try:
            write_corpus(Path(folder) / "corpus.jsonl", options.megabytes * 1_000_000)
            config = Path(folder) / "workers.toml"
            config.write_text(
                f'name = "workers"\n[ingest]\npartition_bytes = {options.megabytes * 1_000_000 // 8}\n'
                f'[[ingest.sources]]\nuri = "{folder}/corpus.jsonl"\n'
            )
            print(f"{options.megabytes} MB in 8 parts\n{'':14}{'ingest':>10}{'tokenize':>10}{'both':>10}   seconds")
            best: dict[str, dict[str, float]] = {}
            for runner in [*options.runners] * options.turns:
                with tempfile.TemporaryDirectory(dir=folder) as home:
                    settings = {"TOKENMILL_HOME": home, "TOKENMILL_RUNNER": runner}
                    tokenmill(
                        os.environ | settings | {"PREFECT_API_URL": f"{status['url']}/api"}, "tokenize", str(config)
                    )
                    took = {each.manifest.step: each.manifest.built["seconds"] for each in Store(f"{home}/data").list()}
                before = best.get(runner, took)
                best[runner] = {step: min(took[step], before[step]) for step in ("ingest", "tokenize")}
            for runner, took in best.items():
                both = sum(took.values())
                one = best.get(runner.replace("=2", "=1"))
                faster = f"   {sum(one.values()) / both:.2f} times as fast as one" if one and one is not took else ""
                print(f"{runner:14}{took['ingest']:10.1f}{took['tokenize']:10.1f}{both:10.1f}{faster}", flush=True)
        finally:
            tokenmill(server, "down")


def tokenmill(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "flows.cli", *arguments], env=environment, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
