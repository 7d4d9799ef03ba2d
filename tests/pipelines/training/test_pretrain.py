import json

import pytest

from gpt.config import PRESETS, SIZES
from gpt.weights import load_model
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store.step import Stopped
from pipelines.tokens.samples import SAMPLE
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.training.pretrain import PRETRAIN, ModelConfig, PretrainConfig, new_model

pytestmark = pytest.mark.integration


def test_stopped_run_resumes_bit_identical(pretrain, new_log, tmp_path):
    whole, cut, rest = new_log(), new_log(stop_at=2), new_log()
    statistics = pretrain(tmp_path / "whole", whole)
    with pytest.raises(Stopped):
        pretrain(tmp_path / "cut", cut)
    assert pretrain(tmp_path / "cut", rest) == statistics
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


def test_full_disk_costs_only_the_work_since_a_checkpoint(build, store, inputs, config, on_small_disk):
    peaceful = build(PRETRAIN, config, **inputs)
    *full, (warned, problems, files) = on_small_disk(FILL, store.root, json.dumps(config))
    assert len(full) == 2
    for message, checkpoints, left in full:
        assert message.startswith("The disk is full where ") and "\n" not in message
        assert [name for name in checkpoints if not name.startswith("best")] == ["step-00000002", "step-00000004"]
        assert left == []
    assert warned == ["going on from step 4 of 6, where an earlier run was stopped"]
    assert problems == [] and files == {name: entry.sha256 for name, entry in peaceful.manifest.files.items()}


@pytest.mark.parametrize("processes", [1, 2])
def test_model_without_validation_samples_keeps_its_last_weights(build, config, tmp_path, warnings, processes):
    (tmp_path / "a.txt").write_text("the mill by the river grinds\n\n" * 400)
    split = {"validation": 0, "test": 0.05}
    corpus = build(INGEST, {"sources": [{"uri": str(tmp_path / "a.txt"), "max_document": 600}], "split": split})
    tokens = build(TOKENIZE, {"encoding": "characters"}, corpus=corpus)
    samples = build(SAMPLE, {"context": 16}, tokens=tokens)
    model = build(PRETRAIN, config | {"steps": 2, "processes": processes}, samples=samples, tokens=tokens)
    statistics = model.manifest.statistics
    assert "best_val_loss" not in statistics and "validation" not in PRETRAIN.headline(statistics)
    assert any("no validation document to choose the best weights on" in sentence for sentence in warnings.sentences)
    untrained = new_model({"samples": samples, "tokens": tokens}, PretrainConfig.model_validate(config))
    before, after = untrained.state_dict(), load_model(model.path).state_dict()
    assert any(not before[name].equal(after[name]) for name in after)


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
