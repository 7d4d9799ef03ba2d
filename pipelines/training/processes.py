"""Pretraining on several processes: torchrun starts them, and what the first one reports comes back line by line.

The processes end with the one that started them, be it killed: each asks before every micro-batch whether it still
lives, and a lock keeps the next attempt from beginning before the last one has let go of the checkpoints.

torchrun's own variables spread them over machines that see the same home folder: with `PET_NNODES=2`,
`PET_NODE_RANK=0`, `PET_MASTER_ADDR` and `PET_MASTER_PORT`, half of the processes start here, and the others with

    PET_NNODES=2 PET_NODE_RANK=1 ... torchrun --nproc-per-node N -m pipelines.training.worker <scratch folder>/job.json
"""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from gpt.train import TrainResult
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.files import write_json
from pipelines.store.processes import ProcessId
from pipelines.store.step import StepContext, Stopped

WORKER = "pipelines.training.worker"  # named by a string: it imports pretrain, which imports this module


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
        "starter": [platform.node(), *ProcessId.of_this()],
    }
    write_json(work.scratch / "job.json", job)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={config.processes // nodes}"]
    command += [*(["--standalone"] if nodes == 1 else []), "-m", WORKER, str(work.scratch / "job.json")]
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
                getattr(work.listener, call)(*arguments)
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
