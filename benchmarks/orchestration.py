"""Measure the share of a run's time outside its steps: Prefect, MLflow, publishing, imports and servers.

A config runs in an empty home. Its wall clock is compared with the times of the steps' own functions, which their
manifests record. The starts and ends of the MLflow runs show where the rest was spent. Then the config runs twice more
with nothing to do: after a complete run, and as after a killed one.

    python -m benchmarks.orchestration configs/quickstart.toml [--set KEY=VALUE ...] [--up]
"""

import argparse
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from pipelines.catalog import runs
from pipelines.store.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, nargs="?", default=Path("configs/quickstart.toml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--up", action="store_true", help="with `tokenmill up` running")
    options = parser.parse_args()
    with socket.socket() as prefect, socket.socket() as mlflow:  # free ports
        for variable, probe in (("TOKENMILL_PREFECT_PORT", prefect), ("TOKENMILL_MLFLOW_PORT", mlflow)):
            probe.bind(("127.0.0.1", 0))
            os.environ[variable] = str(probe.getsockname()[1])
    run = ["run", str(options.config), *(part for each in options.set for part in ("--set", each))]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["TOKENMILL_HOME"] = folder

        def tokenmill(what: str, *arguments: str) -> float:
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            command = [sys.executable, "-m", "flows.cli", *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
            busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"{what:38}{seconds:8.1f} s   {busy:6.1f} s of a core, servers apart", flush=True)
            return seconds

        if options.up:
            tokenmill("tokenmill up", "up")
        try:
            began = time.time()
            whole = tokenmill("the whole run", *run)
            _print_shares(home, began, whole)
            tokenmill("again, nothing to do", *run)
            (home / "data" / ".locks" / f"flow-{uuid4()}.lock").touch()  # as a killed run leaves it
            tokenmill("the same in Prefect and MLflow", *run)
        finally:
            if options.up:
                tokenmill("tokenmill down", "down")


def _print_shares(home: Path, began: float, whole: float) -> None:
    steps = [float(dataset.manifest.built["seconds"]) for dataset in Store(home / "data").list()]
    own = sum(steps)
    spans = [
        (row["started_at"].timestamp(), row["ended_at"].timestamp(), row["parent_run_id"])
        for row in runs.read("runs", f"sqlite:///{home / 'mlruns' / 'mlflow.db'}").to_pylist()
    ]
    ((start, end, _),) = (span for span in spans if not span[2])
    around = sum(ended - started for started, ended, parent in spans if parent)
    parts = {
        f"{len(steps)} steps' own work": own,
        "orchestration and tracking": whole - own,
        "  starting: imports, servers": start - began,
        "  steps: publishing, MLflow": around - own,
        "  between: Prefect, promotion": end - start - around,
        "  ending": began + whole - end,
    }
    for what, seconds in parts.items():
        print(f"  {what:36}{seconds:8.1f} s   {seconds / whole:6.1%} of the run")


if __name__ == "__main__":
    main()
