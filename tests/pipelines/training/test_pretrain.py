"""Pretraining as a step: what it makes, how it ends when asked to, and that several processes are one run."""

import json
import os
import pydoc_data.topics
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gpt.config import PRESETS, SIZES
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.errors import InputError
from pipelines.store.step import Listener, StepContext, Stopped
from pipelines.tokens.samples import SAMPLE
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.training.pretrain import PRETRAIN, ModelConfig, PretrainConfig

CONFIG = {
    "steps": 6,
    "batch_size": 4,
    "accumulation": 2,
    "threads": 1,
    "evaluate_every": 3,
    "checkpoint_every": 2,
    "log_every": 1,
    "prompts": ("The",),
    "model": {"size": "pico", "dropout": 0.1},
}


class Log(Listener):
    """Keeps losses and texts, and can ask for an end at a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.texts: dict[str, str] = {}
        self.stop_at = stop_at

    def metrics(self, step, values):
        if "train/loss" in values:
            self.losses[step] = values["train/loss"]

    def text(self, path, text):
        self.texts[path] = text

    def should_stop(self):
        return self.stop_at is not None and self.stop_at in self.losses


@pytest.fixture
def inputs(build, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in sorted(pydoc_data.topics.topics.items())[:30]:
        (texts / f"{name.replace('/', '-')}.txt").write_text(text[:1500])
    corpus = build(INGEST, {"sources": [{"uri": str(texts)}], "split": {"validation": 0.2}})
    tokens = build(TOKENIZE, {"encoding": "bpe", "vocabulary": 300}, corpus=corpus)
    samples = build(SAMPLE, {"context": 32, "stride": 1000}, tokens=tokens)
    assert samples.manifest.statistics["samples_train"] < 24  # training sees every sample more than twice
    return {"samples": samples, "tokens": tokens}


def pretrain(inputs, folder, report, **changes):
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    config = PretrainConfig.model_validate(CONFIG | changes)
    return PRETRAIN.run(inputs, config, out, StepContext(folder / "scratch", report, should_stop=report.should_stop))


def test_stopped_and_run_again_it_ends_with_the_bytes_of_a_run_left_alone(inputs, tmp_path):
    whole, cut, rest = Log(), Log(stop_at=2), Log()
    statistics = pretrain(inputs, tmp_path / "whole", whole)
    with pytest.raises(Stopped):
        pretrain(inputs, tmp_path / "cut", cut)
    assert pretrain(inputs, tmp_path / "cut", rest) == statistics
    assert cut.losses | rest.losses == whole.losses and min(rest.losses) == 3
    one, two = (tmp_path / name / "out" / "model.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()
    assert list(whole.texts) == ["samples/step-000003.txt", "samples/step-000006.txt"]
    assert all(text.startswith("The") for text in whole.texts.values())


FILL = """
import json, os, sys
from pathlib import Path
from pipelines.errors import InputError
from pipelines.training.pretrain import PRETRAIN, ModelConfig, PretrainConfig
from pipelines.store.step import Listener, StepContext
from pipelines.store.store import Store

disk, root, config = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
inputs = {kind: Store(root).open(kind) for kind in ("samples", "tokens")}
store, ballast = Store(disk / "data"), disk / "ballast"

def free():
    space = os.statvfs(disk)
    return space.f_bavail * space.f_frsize

class Measuring(Listener):
    def metrics(self, step, values):
        if step == 4:  # the checkpoints after steps 2 and 4 are written
            self.taken = before - free()

def pretrain(config, report):
    step = PRETRAIN.using("test", PretrainConfig.model_validate(config), inputs)
    return store.build(step, lambda out, scratch: PRETRAIN.run(inputs, step.config, out, StepContext(scratch, report)))

before, measured = free(), Measuring()
store.remove(pretrain(config, measured))
for processes in (2, 1):
    ballast.write_bytes(bytes(free() - measured.taken - 300_000))  # there is room for half a checkpoint more
    try:
        pretrain(config | {"processes": processes}, Listener())
    except InputError as error:
        checkpoints = sorted(path.name for path in disk.glob("data/.scratch/*/checkpoints/*"))
        left = [str(path) for pattern in ("[!.]*/*", ".staging/*") for path in store.root.glob(pattern)]
        print(json.dumps([str(error), checkpoints, left]))
    ballast.unlink()
    if processes == 2:
        store.sweep(checkpoint_days=0)
warned = []
Listener.warn = lambda self, sentence: warned.append(sentence)
made = pretrain(config, Listener())
print(json.dumps([warned, store.verify(made), {name: entry.sha256 for name, entry in made.manifest.files.items()}]))
"""


def test_a_disk_that_fills_up_at_a_checkpoint_costs_only_the_work_since_the_last(build, store, inputs, on_small_disk):
    peaceful = build(PRETRAIN, CONFIG, **inputs)
    *full, (warned, problems, files) = on_small_disk(FILL, store.root, json.dumps(CONFIG))
    assert len(full) == 2
    for said, checkpoints, left in full:
        assert said.startswith("The disk filled up while model/test@") and "\n" not in said
        assert [name for name in checkpoints if not name.startswith("best")] == ["step-00000002", "step-00000004"]
        assert left == []
    assert warned == ["going on from step 4 of 6, where an earlier run was stopped"]
    assert problems == [] and files == {name: entry.sha256 for name, entry in peaceful.manifest.files.items()}


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_train_as_one(inputs, tmp_path, sharded):
    alone, together = Log(), Log()
    pretrain(inputs, tmp_path / "alone", alone, model={"size": "pico"})
    pretrain(inputs, tmp_path / "together", together, processes=2, sharded=sharded, model={"size": "pico"})
    assert together.losses.keys() == alone.losses.keys()
    assert list(together.losses.values()) == pytest.approx(list(alone.losses.values()), rel=1e-4)
    assert (tmp_path / "together" / "out" / "model.safetensors").exists()


def test_two_nodes_train_as_one(inputs, tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
    for name, value in (nodes | {"PET_NODE_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    job = tmp_path / "together" / "scratch" / "job.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "-m", "pipelines.training.worker"]
    # The other machine's, which waits for the job as a person would.
    code = "import os, sys, time\nwhile not os.path.exists(sys.argv[-1]): time.sleep(0.1)\n"
    code += "os.execv(sys.argv[1], sys.argv[1:])"
    environment = os.environ | nodes | {"PET_NODE_RANK": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    other = subprocess.Popen([sys.executable, "-c", code, *torchrun, str(job)], env=environment, stderr=subprocess.PIPE)
    alone, together = Log(), Log()
    try:
        pretrain(inputs, tmp_path / "alone", alone, steps=2, model={"size": "pico"})
        pretrain(inputs, tmp_path / "together", together, steps=2, processes=2, model={"size": "pico"})
        assert other.wait(60) == 0, other.stderr.read().decode()
    finally:
        other.kill()
    assert list(together.losses.values()) == pytest.approx(list(alone.losses.values()), rel=1e-4)
    with pytest.raises(InputError, match="which 2 nodes cannot share"):
        pretrain(inputs, tmp_path, Log(), processes=3, accumulation=3)


def test_two_processes_stop_when_asked_and_go_on(inputs, tmp_path):
    log, rest = Log(stop_at=1), Log()
    with pytest.raises(Stopped):
        pretrain(inputs, tmp_path, log, processes=2, steps=200)
    assert max(log.losses) < 199
    pretrain(inputs, tmp_path, rest, processes=2, steps=max(log.losses) + 5)
    assert min(rest.losses) == max(log.losses) + 1


def fingerprint(**model):
    return PRETRAIN.using("x", PretrainConfig.model_validate({"model": model})).fingerprint


@pytest.mark.parametrize(
    ("table", "name", "field", "value", "same"),
    [
        (SIZES, "nano", "layers", 5, {"layers": 4}),
        (PRESETS, "gpt2", "tied", False, {"tied": True}),
        (PRESETS, "gpt2", "qk_norm", True, None),
        (SIZES, "nano", "context", 64, {}),  # the samples decide
    ],
)
def test_changed_size_or_preset_changes_the_fingerprint(monkeypatch, table, name, field, value, same):
    before, unlike = fingerprint(), fingerprint(size="micro", preset="modern")
    explicit = same and fingerprint(**same)
    monkeypatch.setitem(table, name, {**table[name], field: value})
    assert (fingerprint() == before) == (same == {})
    assert fingerprint(size="micro", preset="modern") == unlike
    if same:
        assert fingerprint(**same) == explicit


def test_names_mean_what_they_meant_in_0_1_0():
    for size in SIZES:
        for preset in PRESETS:
            assert ModelConfig(size=size, preset=preset).redefined() == {}


def test_new_size_enters_the_fingerprint_as_its_architecture(monkeypatch):
    monkeypatch.setitem(SIZES, "tall", {"layers": 9, "heads": 1, "width": 8, "context": 8})
    assert ModelConfig(size="tall").redefined() == {"layers": 9, "heads": 1, "width": 8}
    assert ModelConfig(size="tall", layers=2).redefined() == {"heads": 1, "width": 8}
