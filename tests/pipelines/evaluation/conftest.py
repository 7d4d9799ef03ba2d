"""Published evaluations with given predictions, and a language model with its corpus and tokens."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from gpt.config import Config, gpt_config
from gpt.model import GPT
from gpt.weights import save_model
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.evaluation.assistant import EVALUATE_ASSISTANT, EvaluateAssistantConfig
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER, EvaluateClassifierConfig
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE, EvaluateLanguageConfig
from pipelines.evaluation.multiple_choice import EVALUATE_TASK, MultipleChoiceConfig
from pipelines.evaluation.results import statistics, write_evaluation
from pipelines.evaluation.tasks import TASKS, TRIAL
from pipelines.evaluation.trial import TRY, TrialConfig
from pipelines.store.manifest import Ref
from pipelines.store.step import StepContext, StepType
from pipelines.store.store import Store
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenize import TOKENIZE

TYPES = {
    "language": (EVALUATE_LANGUAGE, EvaluateLanguageConfig),
    "classification": (EVALUATE_CLASSIFIER, EvaluateClassifierConfig),
    "instruction": (EVALUATE_ASSISTANT, EvaluateAssistantConfig),
    "choice": (EVALUATE_TASK, partial(MultipleChoiceConfig, uri=__file__)),
}


@pytest.fixture
def ref_of():
    """ref_of(name) is the reference of a model."""
    return lambda name: Ref(kind="model", name=name, fingerprint=name.encode().hex() * 8, digest="ab")


@pytest.fixture
def publish(store, ref_of):
    """publish(task, model name, metrics, predictions, trial=False, config={}, **statistics) publishes an evaluation."""

    def publish(task, name, metrics, predictions, trial=False, **facts):
        type, config = (TRY, TrialConfig) if trial else TYPES[task]
        stage = TRIAL if trial else TASKS[task].stage
        held_out = Ref(kind="examples", name="held-out", fingerprint="12" * 32, digest="34")
        inputs = {"model": SimpleNamespace(ref=ref_of(name)), "examples": SimpleNamespace(ref=held_out)}
        if task == "choice":
            del inputs["examples"]
        step = type.using(name, config(**facts.pop("config", {})), inputs)

        def run(out, scratch):
            write_evaluation(out, {"model": metrics}, pa.table(predictions))
            return {"task": task, **facts, **statistics(stage, {"model": metrics})}

        return store.build(step, run)

    return publish


# A language model


def write_model(inputs, config, out, work):
    """Save a model that has memorised one training document."""
    tokens = Tokens(inputs["tokens"])
    torch.manual_seed(0)
    size = gpt_config("pico", vocabulary=tokens.tokenizer.vocabulary, context=64)
    model = GPT(size)
    ids = torch.from_numpy(next(iter(tokens.streams("train")))[:65].astype(np.int64))[None]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[0, 1:])
        loss.backward()
        optimizer.step()
        model.zero_grad()
    save_model(model, out)
    tokens.tokenizer.save(out)
    return {}


MODEL = StepType("model", kind="model", version=1, config=Config, run=write_model)


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A corpus of two sources and languages, its tokens, and a model that has memorised one document."""
    folder = tmp_path_factory.mktemp("language")
    store = Store(folder / "data")

    def build(type, config, **inputs):
        step = type.using("test", type.config(**config), inputs)
        return store.build(step, lambda out, scratch: type.run(inputs, step.config, out, StepContext(scratch)))

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 5)) for _ in range(60)]
    german = "Der Löwe schläft heute Nacht, und niemand weiß, warum das so ist; Nummer"
    texts = {
        "random": [" ".join(rng.choice(words, 20)) for _ in range(30)],
        "löwe": [f"{german} {i}. Wir wissen nur, dass die Nacht lang ist und der Morgen fern." for i in range(20)],
    }
    for name, rows in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    sources = [{"uri": str(folder / f"{name}.jsonl"), "name": name} for name in texts]
    split = {"validation": 0.2, "test": 0.3}
    corpus = build(INGEST, {"sources": sources, "split": split, "language": True, "near_duplicates": None})
    tokens = build(TOKENIZE, {"encoding": "characters"}, corpus=corpus)
    return SimpleNamespace(corpus=corpus, tokens=tokens, model=build(MODEL, {}, tokens=tokens))
