"""Pretraining on several processes. torchrun starts them, and the first one reports in lines of JSON.

The processes end with the one that started them, even if it is killed: each checks before every micro-batch whether
it still lives. A lock makes the next attempt wait until the last one has let go of the checkpoints.

torchrun's own variables spread the processes over machines that share the home folder. With `PET_NNODES=2`,
`PET_NODE_RANK=0`, `PET_MASTER_ADDR` and `PET_MASTER_PORT`, half of the processes start here. The others start with

    PET_NNODES=2 PET_NODE_RANK=1 ... torchrun --nproc-per-node N -m pipelines.training.worker <scratch folder>/job.json
"""

import errno
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gpt.train import TrainResult
from pipelines.errors import InputError
from pipelines.store.dataset import Dataset
from pipelines.store.files import write_json
from pipelines.store.processes import ProcessId
from pipelines.store.step import StepContext, Stopped

WORKER = "pipelines.training.worker"  # a string: the worker imports pretrain, which imports this module

CALLS = ("progress", "metrics", "text", "flush", "warn")
"""Methods of the listener. A line of the first process holds the name of one and its arguments."""

ERRORS: dict[str, Callable[[str], Exception]] = {
    "Stopped": Stopped,
    "InputError": InputError,
    "full": partial(OSError, errno.ENOSPC),
}
"""The error for each ending, by default a `RuntimeError`.

The last line is `["end", [ending, sentence]]`, or `["end", ["result", {...}]]`.
"""


def launch(inputs: Mapping[str, Dataset], config: Any, work: StepContext) -> TrainResult:
    """Pretrain on `config.processes` processes, which leave the weights in the checkpoints of the scratch folder.

    Raises:
        InputError, Stopped: as the training itself does.
        OSError: the disk is full.
        RuntimeError: a process failed. Its output is in `torchrun.log` in the scratch folder.
    """
    stop, log = work.scratch / "stop", work.scratch / "torchrun.log"
    stop.unlink(missing_ok=True)
    nodes = int(os.environ.get("PET_NNODES") or 1)
    if config.processes % nodes:
        raise InputError(f"pretrain.processes is {config.processes}, which {nodes} nodes cannot share equally.")
    job = {
        "inputs": {role: str(dataset.path.absolute()) for role, dataset in inputs.items()},
        "config": config.model_dump(mode="json"),
        "scratch": str(work.scratch.absolute()),
        "starter": [platform.node(), *ProcessId.of_this()],
    }
    write_json(work.scratch / "job.json", job)
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={config.processes // nodes}"]
    command += [*(["--standalone"] if nodes == 1 else []), "-m", WORKER, str(work.scratch.absolute() / "job.json")]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # else they would import modules from the current folder
    ending = ""
    value: Any = None
    with (
        log.open("w") as errors,
        subprocess.Popen(  # noqa: S603 - our own command
            command, env=environment, cwd=work.scratch, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as launcher,
    ):
        assert launcher.stdout
        for line in launcher.stdout:
            try:
                call, arguments = json.loads(line)
            except (ValueError, TypeError):
                continue  # output of a library
            if call == "end":
                ending, value = arguments
            elif call in CALLS:
                getattr(work.listener, call)(*arguments)
            if work.should_stop():
                stop.touch()
    if ending == "result":
        return TrainResult(**value)
    if ending:
        raise ERRORS.get(ending, RuntimeError)(value)
    raise RuntimeError(f"a training process died with exit code {launcher.returncode}; its last words are in {log}")
