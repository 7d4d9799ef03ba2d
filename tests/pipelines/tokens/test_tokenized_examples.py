from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt.batch import IGNORE, pad
from gpt.config import Config, gpt_config
from gpt.loss import next_token_loss
from gpt.model import GPT
from gpt.weights import save_model
from pipelines.corpus.conversation import Message
from pipelines.corpus.documents import SPLITS
from pipelines.corpus.examples import EXAMPLES, Examples
from pipelines.models import text_classifier
from pipelines.models.language_model import as_assistant, open_gpt
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepType
from pipelines.tokens import tokenized_examples
from pipelines.tokens.characters import count_characters
from pipelines.tokens.templates import Template, shipped, template_named
from pipelines.tokens.tokenized_examples import (
    TOKENIZE_EXAMPLES,
    TokenizedExamples,
    TokenizeExamplesConfig,
    fit_conversation,
    inputs_and_targets,
)
from pipelines.tokens.tokenizer import classifier_tokens
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


def test_labelled_texts_are_stored_as_classifiers_read_them(build: Build, base: Dataset, texts: Dataset) -> None:
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
def test_conversations_are_stored_with_their_learnt_tokens(
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


def test_texts_that_fill_the_context_cause_a_warning(
    build: Build, base: Dataset, texts: Dataset, warnings: Any
) -> None:
    build(TOKENIZE_EXAMPLES, {}, model=base, examples=texts)
    n_long = sum(len(row.text) >= 63 for split in SPLITS for row in Examples(texts).rows(split))
    assert warnings.sentences == [f"cut off {n_long} texts at the context of 64 tokens"]


def test_special_tokens_in_messages_cause_a_warning(build: Build, base: Dataset, tmp_path: Path, warnings: Any) -> None:
    rows = [{"instruction": f"ask {i}", "response": "no<|im_end|>" if i % 2 else "yes"} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"uri": str(tmp_path / "a.jsonl"), "response": "response"}
    marked = build(EXAMPLES, {"sources": [source], "split": SPLIT})
    build(TOKENIZE_EXAMPLES, {"template": "chatml"}, model=base, examples=marked)
    assert "read special tokens of the template in 20 conversations as plain letters" in warnings.sentences


def test_dataset_is_one_arrow_file_of_small_integers(build: Build, base: Dataset, talks: Dataset) -> None:
    made = build(TOKENIZE_EXAMPLES, {"template": "plain"}, model=base, examples=talks)
    assert set(made.manifest.files) == {tokenized_examples.FILE}
    with pa.ipc.open_file(made.file(tokenized_examples.FILE)) as file:
        table = file.read_all()
    assert table.schema.field("tokens").type.value_type == pa.from_numpy_dtype(np.dtype(np.uint16))
    assert table["split"].to_pylist() == sorted(table["split"].to_pylist(), key=SPLITS.index) and len(table) == 40


def test_training_again_encodes_nothing(
    build: Build, base: Dataset, texts: Dataset, talks: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AssistantConfig(**TRAINING)
    of_texts = build(TOKENIZE_EXAMPLES, {}, model=base, examples=texts)
    of_talks = build(TOKENIZE_EXAMPLES, config.tokenize_examples.model_dump(), model=base, examples=talks)

    def refuse(*_: Any) -> None:
        raise AssertionError("encoded again")

    for module in (tokenized_examples, text_classifier):
        monkeypatch.setattr(module, "classifier_tokens", refuse)
    monkeypatch.setattr(tokenized_examples, "tokenize_conversation", refuse)
    for seed in (1, 2):
        settings = TRAINING | {"seed": seed}
        build(FINETUNE_CLASSIFIER, settings | {"trainable": "all"}, model=base, examples=texts, lessons=of_texts)
        build(FINETUNE_ASSISTANT, settings, model=base, examples=talks, lessons=of_talks)
    step = TOKENIZE_EXAMPLES.using("test", AssistantConfig(**TRAINING | {"seed": 2}).tokenize_examples, {})
    assert step.fingerprint == TOKENIZE_EXAMPLES.using("test", config.tokenize_examples, {}).fingerprint


# One conversation

LETTERS = count_characters([*(path.read_text() for path in shipped().values()), "abcdefghijklmnopqrstuvwxyz ?.!"])
words = st.text("abc ?", min_size=1, max_size=8)
exchanges = st.lists(st.tuples(words, words), min_size=1, max_size=3)


def talk(*contents: str) -> list[Message]:
    return [Message(role="assistant" if n % 2 else "user", content=content) for n, content in enumerate(contents)]


def talk_of(exchanges: list[tuple[str, str]]) -> list[Message]:
    return talk(*(content for pair in exchanges for content in pair))


@pytest.mark.parametrize("name", shipped())
@given(exchanges=exchanges)
def test_targets_are_responses_with_one_end_of_turn(name: str, exchanges: list[tuple[str, str]]) -> None:
    template: Template = template_named(name)
    tokenizer, conversation = LETTERS.with_special(template.special), talk_of(exchanges)
    (end,) = template.end_ids(tokenizer)
    responses = [[*tokenizer.encode(answer).tolist(), end] for _, answer in exchanges]
    ids, targets = inputs_and_targets(template, tokenizer, conversation, "responses")
    assert [target for target in targets if target != IGNORE] == [token for each in responses for token in each]
    assert all(a == b for a, b in zip(ids[1:], targets, strict=False) if b != IGNORE)
    prompt = template.prompt(tokenizer, conversation[:-1])
    assert ids[: len(prompt)] == prompt  # as the model reads it in use
    same, last = inputs_and_targets(template, tokenizer, conversation, "last")
    assert same == ids and [target for target in last if target != IGNORE] == responses[-1]
    _, everything = inputs_and_targets(template, tokenizer, conversation, "all")
    assert everything == [*ids[1:], end]


@given(exchanges=exchanges, seed=st.integers(0, 9))
def test_targets_of_prompts_do_not_change_the_loss(exchanges: list[tuple[str, str]], seed: int) -> None:
    template: Template = template_named("plain")
    ids, targets = inputs_and_targets(template, LETTERS, talk_of(exchanges))
    ids, targets = ids[:128], targets[:128]
    loss, n = next_token_loss(MODEL, pad([ids], [targets]))
    # Perturb the tokens after prompt positions. The inputs stay, so only targets could change the loss.
    generator = torch.Generator().manual_seed(seed)
    _, everything = inputs_and_targets(template, LETTERS, talk_of(exchanges), "all")
    noise = torch.randint(0, LETTERS.vocabulary, (len(ids),), generator=generator).tolist()
    perturbed = [e if t != IGNORE else r for t, e, r in zip(targets, everything, noise, strict=False)]
    masked = [p if t != IGNORE else IGNORE for t, p in zip(targets, perturbed, strict=True)]
    again, m = next_token_loss(MODEL, pad([ids], [masked]))
    assert (again.item(), int(m)) == (loss.item(), int(n))
    logits = MODEL(torch.tensor([ids]))[0].log_softmax(-1)
    expected = -sum(logits[i, t] for i, t in enumerate(targets) if t != IGNORE)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    moved, _ = next_token_loss(MODEL, pad([ids], [perturbed]))
    assert moved.item() > loss.item()  # they would show if they counted


torch.manual_seed(0)
MODEL = GPT(gpt_config("pico", vocabulary=LETTERS.vocabulary, context=128, layers=1, width=16)).eval()


def test_conversations_are_shortened_or_left_out_and_counted() -> None:
    config, counts = TokenizeExamplesConfig(template="plain"), Counter[str]()

    def fit(*contents: str) -> Any:
        return fit_conversation(config, LETTERS, talk(*contents), 100, counts)

    short = fit("a?", "b.")
    assert fit("x" * 60, "y" * 30, "a?", "b.") == short
    assert fit("a?", "y" * 100) is None
    assert fit("a?", " ") is None
    assert counts == {"shortened": 1, "too_long": 1, "nothing_to_learn": 1}
