"""What share of a run's time is not spent in its steps: Prefect, MLflow, publishing, imports, servers?

Runs a config from nothing in a fresh home, then again with nothing to do, and compares the wall clock with the time
that the steps' own functions took, as their manifests record it.

    python -m benchmarks.orchestration configs/quickstart.toml [--set KEY=VALUE ...] [--up]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?", default=Path("configs/quickstart.toml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--up", action="store_true", help="with `tokenmill up` running")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"TOKENMILL_HOME": home}

        def tokenmill(*arguments: str) -> float:
            started = time.perf_counter()
            command = [sys.executable, "-m", "flows.cli", *arguments]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - started

        if options.up:
            print(f"tokenmill up                      {tokenmill('up'):8.1f} s")
        run = ["run", str(options.config), *(part for each in options.set for part in ("--set", each))]
        try:
            whole, again = tokenmill(*run), tokenmill(*run)
        finally:
            if options.up:
                tokenmill("down")
        published = Store(Path(home) / "data").list()
        steps = sum(float(dataset.manifest.built["seconds"]) for dataset in published)
    print(f"the whole run                     {whole:8.1f} s")
    print(f"of which {len(published):2} steps' own work        {steps:8.1f} s")
    print(f"orchestration and tracking        {whole - steps:8.1f} s   {(whole - steps) / whole:6.1%} of the run")
    print(f"a second run, nothing to do       {again:8.1f} s")


if __name__ == "__main__":
    main()
