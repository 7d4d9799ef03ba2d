"""Warm start: pretraining continues with a champion's tokenizer and weights, and only where there is new text."""

import pydoc_data.topics

import pytest
import torch

from flows.home import Home
from flows.orchestration import warm_start as base_module
from flows.orchestration.warm_start import find_base
from gpt.weights import load_model
from pipelines.chain import Base, chain
from pipelines.config import parse_config
from pipelines.errors import InputError
from pipelines.store.lineage import origins
from pipelines.store.step import StepContext
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenizer import FILE
from pipelines.training.pretrain import PRETRAIN

TOPICS = [text[:2000] for _, text in sorted(pydoc_data.topics.topics.items())]


class Run:
    """A chain without Prefect and MLflow, whose champion is set by hand."""

    def __init__(self, folder, monkeypatch):
        self.home, self.texts = Home(folder), folder / "texts"
        self.texts.mkdir()
        self.write(0, 20)
        self.champion, self.built = None, []
        monkeypatch.setattr(base_module, "champion", lambda name, store, uri: self.champion)

    def write(self, first, last):
        for i in range(first, last):
            (self.texts / f"{i}.txt").write_text(TOPICS[i])

    def config(self, **changes):
        values = {
            "name": "tiny",
            "base": "champion",
            "ingest": {"sources": [{"uri": f"{self.texts}/*.txt"}], "split": {"validation": 0.2, "test": 0.2}},
            "tokenize": {"encoding": "bpe", "vocabulary": 300},
            "sample": {"context": 16},
            "pretrain": {"steps": 3, "batch_size": 4, "model": {"size": "pico"}, "threads": 1, "evaluate_every": 3},
            "evaluate": {"baselines": False},
        }
        return parse_config({**values, **changes}, "test")

    def perform(self, step):
        def build(out, scratch):
            self.built.append(step.type.name)
            return step.type.run(step.inputs, step.config, out, StepContext(scratch))

        return self.home.store.build(step, build)

    def go(self, **changes):
        self.built.clear()
        config = self.config(**changes)
        base = find_base(config, "evaluate", self.home)
        (evaluated,) = chain(self.perform, config, base=base)
        return evaluated.model


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Run(tmp_path, monkeypatch)


EVERYTHING = ["ingest", "tokenize", "sample", "pretrain", "evaluate-language"]


def test_new_text_continues_from_the_champion(run):
    first = run.go()
    assert run.built == EVERYTHING and "base" not in first.manifest.inputs, "without a champion, from the start"
    run.champion = first

    assert run.go().ref == first.ref and run.built == [], "no new text, nothing to train"

    run.write(20, 25)
    second = run.go()
    assert run.built == EVERYTHING
    assert second.manifest.inputs["base"] == first.ref
    assert str(first) in {node.name for node in origins(second, run.home.store.list()).nodes()}, "lineage shows it"
    assert second.manifest.files[FILE].sha256 == first.manifest.files[FILE].sha256
    tokens = run.home.store.open(second.manifest.inputs["tokens"])
    assert Tokens(tokens).tokenizer.vocabulary == 300
    assert tokens.manifest.statistics["documents"] > 20 * 0.9

    assert run.go().ref == second.ref and run.built == [], "kept back, it is found again, not trained again"
    run.champion = second
    assert run.go().ref == second.ref and run.built == [], "promoted, it has read all there is"
    run.champion = first
    assert run.go().ref == second.ref and run.built == [], "and rolled back, it is not trained a second time"

    run.write(25, 27)
    third, champion = run.go(), run.champion
    run.champion = second
    assert run.go().ref != third.ref and run.built == ["pretrain", "evaluate-language"], "the tokens are shared"
    assert champion == first


def test_training_begins_with_the_weights_of_the_base(run):
    run.champion = first = run.go()
    run.write(20, 25)
    same = {"steps": 1, "batch_size": 4, "model": {"size": "pico"}, "threads": 1, "learning_rate": 1e-12}
    second = run.go(pretrain=same)
    before, after = load_model(first.path).state_dict(), load_model(second.path).state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    scratch = run.go(base=None, pretrain=same)
    afresh = load_model(scratch.path).state_dict()
    assert not any(torch.allclose(before[name], afresh[name], atol=1e-6) for name in before if before[name].ndim > 1)


def test_unusable_base_is_one_sentence(run, tmp_path):
    run.champion = first = run.go()
    run.write(20, 25)
    with pytest.raises(InputError, match=r"model/tiny@.* has width = 64 and the config asks for 32"):
        run.go(pretrain={"steps": 1, "model": {"size": "pico", "width": 32}})
    with pytest.raises(InputError, match="Nothing called 'nobody'"):
        run.go(base="nobody")
    classifier = first.manifest.model_copy(update={"statistics": {"task": "classification"}})
    run.champion = type(first)(first.path, classifier)
    with pytest.raises(InputError, match=r"was fine-tuned \(classification\)"):
        run.go()
    other = run.go(base=None, tokenize={"encoding": "characters"})
    inputs = {role: run.home.store.open(other.manifest.inputs[role]) for role in ("tokens", "samples")}
    with pytest.raises(InputError, match="their tokenizers differ"):
        run.perform(PRETRAIN.using("tiny", run.config().pretrain, {**inputs, "base": first}))


def test_base_may_be_any_model_without_its_tokens(run):
    first = run.go(base=None)
    tokens = run.home.store.open(first.manifest.inputs["tokens"])
    run.home.store.remove(tokens)
    base = find_base(run.config(name="other", base=f"tiny@{first.ref.fingerprint[:8]}"), "evaluate", run.home)
    assert base == Base(first, None)
    assert run.go(base=f"tiny@{first.ref.fingerprint[:8]}").manifest.inputs["base"] == first.ref


def test_tokenizer_file_counts_by_its_content(run, tmp_path):
    first = run.go(base=None)
    (tmp_path / "mine").mkdir()
    copy = tmp_path / "mine" / "tok.json"
    copy.write_bytes(first.file(FILE).read_bytes())
    again, elsewhere = (run.go(base=None, tokenize={"tokenizer": str(p)}) for p in (first.file(FILE), copy))
    assert again.ref == elsewhere.ref
    tokens = [run.home.store.open(each.manifest.inputs["tokens"]) for each in (first, again)]
    assert tokens[0].ref.digest == tokens[1].ref.digest, "the same tokens, byte for byte"
    with pytest.raises(InputError, match="there is no file"):
        run.go(base=None, tokenize={"tokenizer": "nowhere.json"})
    with pytest.raises(InputError, match="takes the place of encoding"):
        run.config(tokenize={"tokenizer": "x", "encoding": "bpe"})
