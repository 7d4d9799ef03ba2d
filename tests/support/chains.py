"""A small chain of everything, with texts that would do harm in a page or on a terminal."""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.corpus.examples import EXAMPLES
from pipelines.corpus.ingest.ingest import INGEST
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext
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


def builder(home: Path, name: str = "") -> Callable[[str], Dataset]:
    """Return a function that builds what a step of the chain makes, on first use; its inputs first.

    Args:
        home: where sources and data are stored.
        name: the name of every dataset; by default, that of its step.
    """
    store = Store(home / "data")
    write_sources(home)
    recipes = {recipe[0].name: recipe for recipe in CHAIN}

    @cache
    def build(step_name: str) -> Dataset:
        step_type, config, roles = recipes[step_name]
        if "sources" in config:
            sources = [each | {"uri": each["uri"].replace("{home}", str(home))} for each in config["sources"]]
            config = config | {"sources": sources}
        inputs = {role: build(each) for role, each in roles.items()}
        step = step_type.using(name or step_name, step_type.config(**config), inputs)

        def run(out: Path, scratch: Path) -> dict[str, Any]:
            return step_type.run(inputs, step.config, out, StepContext(scratch))

        return store.build(step, run, built_by={"mlflow_run_id": f"r-{step_name}"})

    return build


def write_sources(home: Path) -> None:
    texts = home / "texts"
    texts.mkdir()
    topics = sorted(pydoc_data.topics.topics.items())[:24]
    for number, (_, text) in enumerate(topics):
        (texts / f"{number:02}.txt").write_text(f"{BAD}\n{text[:900]}")
    (texts / "twin.txt").write_text((texts / "00.txt").read_text())
    rows = [f"{'<b>code' if i % 3 else 'prose'}\t{BAD} {text[20:70].split()}" for i, (_, text) in enumerate(topics * 2)]
    (home / "labels.tsv").write_text("label\ttext\n" + "\n".join(f"{row} {i}" for i, row in enumerate(rows)) + "\n")
