import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import InputError
from pipelines.store.step import Stopped

pytestmark = pytest.mark.integration


@pytest.mark.slow
def test_two_processes_stop_resume_and_train_as_one(pretrain, new_log, tmp_path):
    cut, rest, alone = new_log(stop_at=1), new_log(), new_log()
    settings = {"model": {"size": "pico"}, "schedule": "constant"}
    with pytest.raises(Stopped):
        pretrain(tmp_path / "together", cut, processes=2, steps=200, **settings)
    last = max(cut.losses)
    assert last < 199
    pretrain(tmp_path / "together", rest, processes=2, steps=last + 5, **settings)
    assert min(rest.losses) == last + 1
    assert (tmp_path / "together" / "out" / "model.safetensors").exists()
    pretrain(tmp_path / "alone", alone, steps=last + 5, **settings)
    together = cut.losses | rest.losses
    assert together.keys() == alone.losses.keys()
    assert list(together.values()) == pytest.approx(list(alone.losses.values()), rel=1e-4)


def test_two_nodes_with_shards_train_as_one_process(pretrain, new_log, tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
    for name, value in (nodes | {"PET_NODE_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    job = tmp_path / "together" / "scratch" / "job.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "-m", "pipelines.training.worker"]
    # The other machine waits for the job, as its user would.
    code = "import os, sys, time\nwhile not os.path.exists(sys.argv[-1]): time.sleep(0.1)\n"
    code += "os.execv(sys.argv[1], sys.argv[1:])"
    environment = os.environ | nodes | {"PET_NODE_RANK": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    other = subprocess.Popen([sys.executable, "-c", code, *torchrun, str(job)], env=environment, stderr=subprocess.PIPE)
    alone, together = new_log(), new_log()
    try:
        pretrain(tmp_path / "alone", alone, steps=2, model={"size": "pico"})
        pretrain(tmp_path / "together", together, steps=2, processes=2, sharded=True, model={"size": "pico"})
        assert other.wait(60) == 0, other.stderr.read().decode()
    finally:
        other.kill()
    assert list(together.losses.values()) == pytest.approx(list(alone.losses.values()), rel=1e-4)
    assert (tmp_path / "together" / "out" / "model.safetensors").exists()
    with pytest.raises(InputError, match="which 2 nodes cannot share"):
        pretrain(tmp_path, new_log(), processes=3, accumulation=3)
