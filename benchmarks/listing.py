"""Measure the time to list a thousand published datasets, beside reading their manifests as bare JSON.

python -m benchmarks.listing [--datasets 1000]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt.config import Config
from pipelines.store.step import StepType
from pipelines.store.store import Store


class Empty(Config):
    """A config without fields."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        store = Store(Path(home) / "data")
        step = StepType("bench", kind="corpus", version=1, config=Empty, run=lambda: {})
        os.fsync = lambda descriptor: None  # the listing is measured, not the disk
        for number in range(options.datasets):
            store.build(step.using(f"corpus-{number}", Empty()), _make_files)
        paths = list(store.root.glob("corpus/*/manifest.json"))

        bare = _seconds(lambda: [json.loads(path.read_bytes()) for path in paths])
        listed = _seconds(store.list)
        command = [sys.executable, "-m", "flows.cli", "datasets"]
        environment = os.environ | {"TOKENMILL_HOME": home}
        shown = _seconds(lambda: _run([*command, "ls"], environment))
        help = _seconds(lambda: _run([*command, "--help"], environment))
    print(f"{options.datasets:,} manifests as bare JSON   {bare:6.2f} s")
    print(f"Store.list                     {listed:6.2f} s   {listed / bare:4.1f} times that")
    print(f"tokenmill datasets ls          {shown:6.2f} s   of which {help:.2f} s for Python to start")


def _make_files(out: Path, scratch: Path) -> dict[str, Any]:
    for number in range(8):
        (out / f"part-{number:05d}").write_bytes(b"x")
    return {f"statistic_{number}": number for number in range(20)}


def _run(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def _seconds(call: Callable[[], Any]) -> float:
    """Return the seconds of a call, the best of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
