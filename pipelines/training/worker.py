"""One of several training processes: `python -m pipelines.training.worker JOB_FILE`, started by torchrun."""

import json
import platform
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from gpt import parallel
from gpt.train import Diverged
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.disks import disk_is_full
from pipelines.store.manifest import MANIFEST
from pipelines.store.processes import ProcessId
from pipelines.store.step import Listener, StepContext, Stopped
from pipelines.training.pretrain import PretrainConfig, train_model
from pipelines.training.processes import CALLS


def take_part(job_file: Path) -> None:
    """Do the pretraining step's training as one of several processes."""
    job = json.loads(job_file.read_text())
    scratch = Path(job["scratch"])
    folders = {role: Path(path) for role, path in job["inputs"].items()}
    inputs = {role: Dataset.parse(folder, (folder / MANIFEST).read_bytes()) for role, folder in folders.items()}

    def should_stop() -> bool:
        return (scratch / "stop").exists() or not _is_alive(*job["starter"])

    with parallel.join() as device, FileLock(scratch / f"process-{parallel.rank()}.lock"):
        try:
            work = StepContext(scratch, _relay(), should_stop=should_stop)
            _, result = train_model(inputs, PretrainConfig.model_validate(job["config"]), work, device)
            _send("end", "result", asdict(result))
        except (Stopped, InputError, Diverged, ValueError) as error:
            _send("end", "InputError" if isinstance(error, InputError) else type(error).__name__, str(error))
        except Exception as error:
            if disk_is_full(error):
                _send("end", "full", str(error))
            raise


def _relay() -> Listener:
    """Return a listener that sends every call to the process that started the training."""
    relay = Listener()
    for call in CALLS:
        setattr(relay, call, partial(_send, call))
    return relay


def _send(call: str, *arguments: Any) -> None:
    """Write a call as a line of JSON, in the first process only."""
    if parallel.rank() == 0:
        print(json.dumps([call, arguments]), flush=True)


def _is_alive(host: str, *starter: Any) -> bool:
    if host != platform.node():
        return True  # the processes of that host notice its end, and torchrun ends the others with them
    return ProcessId(*starter).is_alive()


if __name__ == "__main__":
    take_part(Path(sys.argv[1]))
