import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import gpt
from gpt.checkpoint import Checkpoints

pytestmark = pytest.mark.integration

WORKER = Path(__file__).with_name("parallel_worker.py")


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parallel_worker", WORKER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which two processes wrote losses and checkpoints of four steps, resumed after two."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(WORKER)]
    environment = {"PYTHONPATH": str(Path(gpt.__file__).parents[1]), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_learn_the_same_as_one(
    worker: ModuleType, together: Path, tmp_path: Path, way: str, optimizer: str
) -> None:
    alone = worker.losses(tmp_path, "alone", optimizer)
    assert json.loads((together / f"{way}-{optimizer}.json").read_text()) == pytest.approx(alone[:4], rel=1e-4)
    # One process resumes the run of two, sharded or not, as if it had trained alone.
    assert worker.losses(together / f"{way}-{optimizer}", "alone", optimizer) == pytest.approx(alone[4:], rel=1e-4)
    ends = [Checkpoints.load(Checkpoints(f).latest()) for f in (tmp_path, together / f"{way}-{optimizer}")]  # type: ignore[arg-type]
    assert ends[0][2] == ends[1][2]
    for name, tensor in ends[0][0].items():
        torch.testing.assert_close(ends[1][0][name], tensor, atol=2e-3, rtol=1e-2)
