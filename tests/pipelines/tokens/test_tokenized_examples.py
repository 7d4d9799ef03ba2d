"""Examples encoded once: what is stored is what a model reads and learns, and learning it again encodes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import torch

from gpt.batch import IGNORE
from gpt.config import Config, gpt_config
from gpt.model import GPT
from gpt.weights import save_model
from pipelines.corpus.documents import SPLITS
from pipelines.corpus.examples import EXAMPLES, Examples
from pipelines.models import language_model as model
from pipelines.models.language_model import as_assistant, open_gpt
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepType
from pipelines.tokens import tokenized_examples as lessons
from pipelines.tokens.characters import count_characters
from pipelines.tokens.templates import template_named
from pipelines.tokens.tokenized_examples import (
    TOKENIZE_EXAMPLES,
    TokenizedExamples,
    classifier_tokens,
    inputs_and_targets,
)
from pipelines.training.finetune_assistant import FINETUNE_ASSISTANT, AssistantConfig
from pipelines.training.finetune_classifier import FINETUNE_CLASSIFIER

Build = Callable[..., Dataset]
TOKENIZER = count_characters(["abcdefghijklmnopqrstuvwxyz 0123456789.?#:\nIRU"])
SPLIT = {"validation": 0.3, "test": 0.3}
TRAINING = {"steps": 2, "batch_size": 4, "evaluate_every": 2, "threads": 1}


def write_base(inputs: Any, config: Any, out: Path, work: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    save_model(GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=64, layers=1, width=16)), out)
    TOKENIZER.save(out)
    return {}


@pytest.fixture
def base(build: Build) -> Dataset:
    return build(StepType("base", kind="model", version=1, config=Config, run=write_base), {})


@pytest.fixture
def texts(build: Build, tmp_path: Path) -> Dataset:
    rows = [{"text": f"text {i} " + "x" * (i * 3), "label": "odd" if i % 2 else "even"} for i in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"uri": str(tmp_path / "texts.jsonl"), "label": "label"}
    return build(EXAMPLES, {"sources": [source], "split": SPLIT})


@pytest.fixture
def talks(build: Build, tmp_path: Path) -> Dataset:
    rows = [{"instruction": f"ask {i}?", "response": f"answer {i}."} for i in range(40)]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build(
        EXAMPLES, {"sources": [{"uri": str(tmp_path / "talks.jsonl"), "response": "response"}], "split": SPLIT}
    )


def test_labelled_texts_are_stored_as_the_classifier_reads_them(build: Build, base: Dataset, texts: Dataset) -> None:
    made = build(TOKENIZE_EXAMPLES, {}, model=base, examples=texts)
    stored, total = TokenizedExamples(made), 0
    for split in SPLITS:
        rows = Examples(texts).rows(split)
        assert stored.labels(split) == [row.label for row in rows]
        expected = [classifier_tokens(TOKENIZER, row.text, 64) for row in rows]
        assert [ids.tolist() for ids in stored.tokens(split)] == expected
        total += sum(map(len, expected))
    assert made.manifest.statistics["tokens"] == total and made.manifest.statistics["lessons"] == 40


@pytest.mark.parametrize("loss_on", ["responses", "all"])
def test_conversations_are_stored_with_what_is_learnt(
    build: Build, base: Dataset, talks: Dataset, loss_on: Any
) -> None:
    stored = TokenizedExamples(
        build(TOKENIZE_EXAMPLES, {"template": "plain", "loss_on": loss_on}, model=base, examples=talks)
    )
    assistant = as_assistant(open_gpt(base.path), template_named("plain"))
    for split in SPLITS:
        expected = [
            inputs_and_targets(assistant.template, assistant.tokenizer, row.conversation, loss_on)
            for row in Examples(talks).rows(split)
        ]
        inputs, targets = stored.pairs(split)
        assert [(ids.tolist(), ts.tolist()) for ids, ts in zip(inputs, targets, strict=True)] == expected
        assert any(IGNORE in ts for ts in targets) == (loss_on == "responses")


def test_it_is_one_arrow_file_of_small_integers(build: Build, base: Dataset, talks: Dataset) -> None:
    made = build(TOKENIZE_EXAMPLES, {"template": "plain"}, model=base, examples=talks)
    assert set(made.manifest.files) == {lessons.FILE}
    with pa.ipc.open_file(made.file(lessons.FILE)) as file:
        table = file.read_all()
    assert table.schema.field("tokens").type.value_type == pa.from_numpy_dtype(np.dtype(np.uint16))
    assert table["split"].to_pylist() == sorted(table["split"].to_pylist(), key=SPLITS.index) and len(table) == 40


def test_training_again_and_otherwise_encodes_nothing(
    build: Build, base: Dataset, texts: Dataset, talks: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AssistantConfig(**TRAINING)
    of_texts = build(TOKENIZE_EXAMPLES, {}, model=base, examples=texts)
    of_talks = build(TOKENIZE_EXAMPLES, config.lessons.model_dump(), model=base, examples=talks)

    def refuse(*_: Any) -> None:
        raise AssertionError("encoded again")

    for module in (lessons, model):
        monkeypatch.setattr(module, "classifier_tokens", refuse)
    monkeypatch.setattr(lessons, "tokenize_conversation", refuse)
    for seed in (1, 2):
        settings = TRAINING | {"seed": seed}
        build(FINETUNE_CLASSIFIER, settings | {"trainable": "all"}, model=base, examples=texts, lessons=of_texts)
        build(FINETUNE_ASSISTANT, settings, model=base, examples=talks, lessons=of_talks)
    step = TOKENIZE_EXAMPLES.using("test", AssistantConfig(**TRAINING | {"seed": 2}).lessons, {})
    assert step.fingerprint == TOKENIZE_EXAMPLES.using("test", config.lessons, {}).fingerprint
