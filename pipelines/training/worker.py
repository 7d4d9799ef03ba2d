"""One of several training processes: `python -m pipelines.training.worker JOB_FILE`, started by torchrun."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from gpt import parallel
from gpt.train import Diverged
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.files import disk_is_full
from pipelines.store.manifest import Manifest
from pipelines.store.processes import ProcessId
from pipelines.store.step import Listener, StepContext, Stopped
from pipelines.training.pretrain import PretrainConfig, train_model


class _Relay(Listener):
    """Writes every call as a line of JSON for `launch` to repeat; only the first process speaks."""

    def progress(self, *arguments: Any) -> None:
        self.send("progress", arguments)

    def metrics(self, *arguments: Any) -> None:
        self.send("metrics", arguments)

    def text(self, *arguments: Any) -> None:
        self.send("text", arguments)

    def flush(self) -> None:
        self.send("flush", ())

    def warn(self, *arguments: Any) -> None:
        self.send("warn", arguments)

    def send(self, call: str, arguments: Any) -> None:
        if parallel.rank() == 0:
            print(json.dumps([call, arguments]), flush=True)


def take_part(job_file: Path) -> None:
    """What each process does: the pretraining step's training, as one of several."""
    job = json.loads(job_file.read_text())
    scratch, relay = Path(job["scratch"]), _Relay()
    inputs = {role: _open(Path(path)) for role, path in job["inputs"].items()}

    def should_stop() -> bool:
        return (scratch / "stop").exists() or not _is_alive(*job["starter"])

    with parallel.join() as device, FileLock(scratch / f"process-{parallel.rank()}.lock"):
        try:
            work = StepContext(scratch, relay, should_stop=should_stop)
            _, result = train_model(inputs, PretrainConfig.model_validate(job["config"]), work, device)
            relay.send("end", {"result": asdict(result)})
        except Stopped as stopped:
            relay.send("end", {"stopped": str(stopped)})
        except InputError as error:
            relay.send("end", {"input": str(error)})
        except (Diverged, ValueError) as error:
            relay.send("end", {"failed": str(error)})
        except Exception as error:
            if disk_is_full(error):
                relay.send("end", {"full": str(error)})
            raise


def _open(path: Path) -> Dataset:
    return Dataset(path, Manifest.model_validate_json((path / "manifest.json").read_bytes()))


def _is_alive(host: str, *starter: Any) -> bool:
    if host != platform.node():
        return True  # the processes of that host notice its end, and torchrun ends the others with them
    return ProcessId(*starter).is_alive()


if __name__ == "__main__":
    take_part(Path(sys.argv[1]))
