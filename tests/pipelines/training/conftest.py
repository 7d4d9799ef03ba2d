"""Fixtures of the tests of training."""

import pydoc_data.topics

import pytest

from pipelines.corpus.ingest.ingest import INGEST
from pipelines.store.step import Listener, StepContext
from pipelines.tokens.samples import SAMPLE
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.training.pretrain import PRETRAIN, PretrainConfig

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
    """A listener that keeps losses and texts, and can ask the run to stop at a step."""

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
def new_log():
    """new_log(stop_at) returns a listener that keeps losses and texts."""
    return Log


@pytest.fixture
def config():
    """Return the settings of a short pretraining."""
    return CONFIG


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


@pytest.fixture
def pretrain(inputs):
    """pretrain(folder, log, **changes) trains on the inputs, and returns the statistics."""

    def run(folder, log, **changes):
        (folder / "scratch").mkdir(parents=True, exist_ok=True)
        out = folder / "out"
        out.mkdir(exist_ok=True)
        config = PretrainConfig.model_validate(CONFIG | changes)
        return PRETRAIN.run(inputs, config, out, StepContext(folder / "scratch", log, should_stop=log.should_stop))

    return run
