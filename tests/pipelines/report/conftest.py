"""A small chain of everything, with texts that would do harm in a page; each dataset is built on first use."""

from __future__ import annotations

import pydoc_data.topics
import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipelines.corpus.examples import EXAMPLES
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE
from pipelines.store.dataset import Dataset
from pipelines.store.step import Listener, StepContext
from pipelines.store.store import Store
from pipelines.tokens.samples import SAMPLE
from pipelines.tokens.tokenize import TOKENIZE
from pipelines.tokens.tokenized_examples import TOKENIZE_EXAMPLES
from pipelines.training.finetune_classifier import FINETUNE_CLASSIFIER
from pipelines.training.pretrain import PRETRAIN

BAD = "<script>alert('x')</script><img src=http://evil.example/x.png onerror=alert(1)>"
TRAINING: dict[str, Any] = {"steps": 2, "batch_size": 4, "threads": 1, "evaluate_every": 1}
SPLIT = {"validation": 0.2, "test": 0.2}

# Step, config, inputs by role. `{home}` is replaced by the folder of the test run.
CHAIN: list[tuple[Any, dict[str, Any], dict[str, str]]] = [
    (INGEST, {"sources": [{"uri": "{home}/texts"}], "split": SPLIT}, {}),
    (TOKENIZE, {"encoding": "bpe", "vocabulary": 300}, {"corpus": "ingest"}),
    (SAMPLE, {"context": 32, "stride": 64}, {"tokens": "tokenize"}),
    (PRETRAIN, TRAINING | {"model": {"size": "pico"}}, {"samples": "sample", "tokens": "tokenize"}),
    (
        EVALUATE_LANGUAGE,
        {"prompts": ["<b>"], "memorisation": {"prefix_tokens": 8}},
        {"model": "pretrain", "tokens": "tokenize", "corpus": "ingest"},
    ),
    (EXAMPLES, {"sources": [{"uri": "{home}/labels.tsv", "label": "label"}], "split": SPLIT}, {}),
    (TOKENIZE_EXAMPLES, {}, {"model": "pretrain", "examples": "examples"}),
    (FINETUNE_CLASSIFIER, TRAINING, {"model": "pretrain", "examples": "examples", "lessons": "lessons"}),
    (EVALUATE_CLASSIFIER, {}, {"model": "finetune-classifier", "examples": "examples"}),
]


class Strict(Listener):
    """Fails on a warning."""

    def warn(self, sentence: str) -> None:
        raise AssertionError(sentence)


@pytest.fixture(scope="session")
def strict() -> Strict:
    return Strict()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dataset]:
    """made(STEP) is the dataset that a step of the chain made; its curves are in MLflow's database."""
    home = tmp_path_factory.mktemp("report")
    store = Store(home / "data")
    write_sources(home)
    record_run(home, "r-pretrain")
    recipes = {recipe[0].name: recipe for recipe in CHAIN}

    @cache
    def build(name: str) -> Dataset:
        step_type, config, roles = recipes[name]
        if "sources" in config:
            sources = [each | {"uri": each["uri"].replace("{home}", str(home))} for each in config["sources"]]
            config = config | {"sources": sources}
        inputs = {role: build(each) for role, each in roles.items()}
        step = step_type.using("tiny", step_type.config(**config), inputs)

        def run(out: Path, scratch: Path) -> dict[str, Any]:
            return step_type.run(inputs, step.config, out, StepContext(scratch))

        return store.build(step, run, built_by={"mlflow_run_id": f"r-{name}"})

    return build


@pytest.fixture(scope="session")
def chain(made: Callable[[str], Dataset]) -> dict[str, Dataset]:
    """Every dataset of the chain, by step."""
    return {step_type.name: made(step_type.name) for step_type, _, _ in CHAIN}


def write_sources(home: Path) -> None:
    texts = home / "texts"
    texts.mkdir()
    topics = sorted(pydoc_data.topics.topics.items())[:24]
    for number, (_, text) in enumerate(topics):
        (texts / f"{number:02}.txt").write_text(f"{BAD}\n{text[:900]}")
    (texts / "twin.txt").write_text((texts / "00.txt").read_text())
    rows = [f"{'<b>code' if i % 3 else 'prose'}\t{BAD} {text[20:70].split()}" for i, (_, text) in enumerate(topics * 2)]
    (home / "labels.tsv").write_text("label\ttext\n" + "\n".join(f"{row} {i}" for i, row in enumerate(rows)) + "\n")


def record_run(home: Path, run_id: str) -> None:
    """Write a run into MLflow's database, with curves and a text."""
    artifacts = home / "mlruns" / "artifacts"
    (artifacts / "samples").mkdir(parents=True)
    (artifacts / "samples" / "step-000002.txt").write_text(f"And it wrote {BAD}")
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as database:
        database.execute("CREATE TABLE metrics (run_uuid, key, step, value, is_nan)")
        database.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
        database.execute("INSERT INTO runs VALUES (?, ?)", (run_id, artifacts.as_uri()))
        for step in range(20):
            for key in ("train/loss", "train/learning_rate", "train/gradient_norm", "train/tokens_per_second"):
                database.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, 0)", (run_id, key, step, 5 - step / 10))
        database.execute("INSERT INTO metrics VALUES (?, 'val/loss', 10, 4.5, 0)", (run_id,))
