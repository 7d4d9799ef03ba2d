"""Pretraining on several processes: torchrun starts them, and what the first one reports comes back line by line.

The processes end with the one that started them, be it killed: each asks before every micro-batch whether it still
lives, and a lock keeps the next attempt from beginning before the last one has let go of the checkpoints.

torchrun's own variables spread them over machines that see the same home folder: with `PET_NNODES=2`,
`PET_NODE_RANK=0`, `PET_MASTER_ADDR` and `PET_MASTER_PORT`, half of the processes start here, and the others with

    PET_NNODES=2 PET_NODE_RANK=1 ... torchrun --nproc-per-node N -m pipelines.processes <scratch folder>/job.json
"""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from gpt import parallel
from gpt.train import Diverged, TrainResult
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.files import disk_is_full, write_json
from pipelines.store.manifest import Manifest
from pipelines.store.step import Listener, StepContext, Stopped


def launch(inputs: Mapping[str, Dataset], config: Any, work: StepContext) -> TrainResult:
    """Pretrain on `config.processes` processes; the weights are then in the checkpoints of the scratch folder.

    Raises:
        InputError, Stopped: as the training itself would.
        RuntimeError: a process died; its last words are in `torchrun.log` in the scratch folder.
    """
    stop, log = work.scratch / "stop", work.scratch / "torchrun.log"
    stop.unlink(missing_ok=True)
    nodes = int(os.environ.get("PET_NNODES") or 1)
    if config.processes % nodes:
        raise InputError(f"pretrain.processes is {config.processes}, which {nodes} nodes cannot share equally.")
    job = {
        "inputs": {role: str(dataset.path) for role, dataset in inputs.items()},
        "config": config.model_dump(mode="json"),
        "scratch": str(work.scratch),
        "starter": [platform.node(), os.getpid()],
    }
    write_json(work.scratch / "job.json", job)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={config.processes // nodes}"]
    command += [*(["--standalone"] if nodes == 1 else []), "-m", __name__, str(work.scratch / "job.json")]
    outcome: dict[str, Any] = {}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as started,  # noqa: S603
    ):
        assert started.stdout
        for line in started.stdout:
            try:
                call, arguments = json.loads(line)
            except (ValueError, TypeError):
                continue  # a library's own words
            if call == "end":
                outcome = arguments
            else:
                getattr(work.report, call)(*arguments)
            if work.should_stop():
                stop.touch()
    match outcome:
        case {"result": result}:
            return TrainResult(**result)
        case {"stopped": sentence}:
            raise Stopped(sentence)
        case {"input": sentence}:
            raise InputError(sentence)
        case {"full": sentence}:
            raise OSError(errno.ENOSPC, sentence)
        case {"failed": sentence}:
            raise RuntimeError(sentence)
    raise RuntimeError(f"a training process died with exit code {started.returncode}; its last words are in {log}")


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


def _take_part(job_file: Path) -> None:
    """What each process does: the pretraining step's training, as one of several."""
    from pipelines.training.pretrain import PretrainConfig, train_model

    job = json.loads(job_file.read_text())
    scratch, relay = Path(job["scratch"]), _Relay()
    inputs = {role: _open(Path(path)) for role, path in job["inputs"].items()}

    def should_stop() -> bool:
        return (scratch / "stop").exists() or not _lives(*job["starter"])

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


def _lives(host: str, pid: int) -> bool:
    if host != platform.node():
        return True  # its own processes see it end, and torchrun ends the others with them
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    _take_part(Path(sys.argv[1]))
