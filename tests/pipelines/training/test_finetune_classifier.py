import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from gpt.config import gpt_config
from gpt.model import GPT
from gpt.weights import save_model
from pipelines.corpus.documents import SplitConfig, document_id, split_of
from pipelines.corpus.examples import EXAMPLES, Examples, ExamplesConfig
from pipelines.corpus.kept_out import divide
from pipelines.errors import InputError
from pipelines.models.language_model import open_model
from pipelines.store.step import StepType
from pipelines.tokens.characters import count_characters
from pipelines.tokens.tokenized_examples import TOKENIZE_EXAMPLES, TokenizedExamples
from pipelines.training.finetune_classifier import (
    FINETUNE_CLASSIFIER,
    ClassifierConfig,
    balanced_draw,
    balanced_weights,
)
from pipelines.training.tuning import tuning_examples

SHARES = SplitConfig(validation=0.33, test=0.33)
TOKENIZER = count_characters(["abcdefghijklmnopqrstuvwxyz !£0123456789"])


def publish_base(inputs, config, out, work):
    save_model(GPT(gpt_config("pico", "modern", vocabulary=TOKENIZER.vocabulary, context=24, width=16, heads=2)), out)
    TOKENIZER.save(out)
    return {"task": "language"}


BASE = StepType("base", kind="model", version=1, config=ExamplesConfig, run=publish_base)


@pytest.fixture
def examples(build, tmp_path):
    """examples([(label, text), ...]) publishes labelled texts, a third of them for each split."""

    def publish(rows):
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps({"label": label, "text": text}) + "\n" for label, text in rows))
        source = {"uri": str(path), "label": "label"}
        return build(EXAMPLES, {"sources": [source], "split": SHARES.model_dump()})

    return publish


@pytest.fixture
def finetuned(build):
    """finetuned(examples, {config}) publishes a classifier of a tiny base."""

    def finetune(examples, **config):
        base = build(BASE, {"sources": [{"uri": "x", "label": "y"}]})
        settings = {"steps": 3, "batch_size": 8, "evaluate_every": 2, "threads": 1} | config
        tokenized = build(TOKENIZE_EXAMPLES, {}, model=base, examples=examples)
        return build(FINETUNE_CLASSIFIER, settings, model=base, examples=examples, lessons=tokenized), base

    return finetune


def letters(n, label="ham", seed=0, splits=("train", "validation", "test")):
    """Labelled texts of random letters that fall into these splits."""
    rng, rows = np.random.default_rng(seed), []
    while len(rows) < n:
        text = "".join(rng.choice(list("abcdefgh"), 12))
        if split_of(document_id(text), SHARES) in splits:
            rows.append((label, text))
    return rows


TWO = [*letters(60), *letters(24, "spam", 1)]


@pytest.mark.parametrize("trainable", ["all", "head", "last:1", "lora"])
def test_only_chosen_parameters_learn_and_lora_is_merged(trainable, finetuned, examples):
    model, base = finetuned(examples(TWO), trainable=trainable, lora_rank=2)
    before, after = load_file(base.file("model.safetensors")), load_file(model.file("model.safetensors"))
    assert set(after) == {"head.weight", "head.bias"} | {f"gpt.{name}" for name in before}
    moved = {name for name in before if not (before[name] == after[f"gpt.{name}"]).all()}
    linear = {
        f"blocks.{i}.{part}.weight"
        for i in (0, 1)
        for part in ("attention.qkv", "attention.output", "mlp.input", "mlp.output")
    }
    expected = {
        "all": set(before) - {"head.weight"},
        "head": set(),
        "last:1": {name for name in before if name.startswith(("blocks.1.", "norm."))},
        "lora": linear,
    }
    assert moved == expected[trainable]
    assert model.manifest.statistics["parameters"] == sum(weight.numel() for weight in after.values())


def test_from_scratch_trains_all_new_parameters(finetuned, examples):
    model, base = finetuned(examples(TWO), trainable="head", from_scratch=True)
    before, after = load_file(base.file("model.safetensors")), load_file(model.file("model.safetensors"))
    assert not (before["tokens.weight"] == after["gpt.tokens.weight"]).any()
    assert model.manifest.statistics["parameters_trained"] > sum(weight.numel() for weight in after.values()) // 2


def test_threshold_is_chosen_on_validation_and_applied(finetuned, examples):
    texts = [text for _, text in TWO]
    plain = open_model(finetuned(examples(TWO))[0].path)
    assert plain.decision.positive == "spam" and plain.decision.threshold is None
    model, _ = finetuned(examples(TWO), threshold="f1")
    chosen = open_model(model.path)
    assert chosen.decision.threshold == model.manifest.statistics["threshold"]
    spam = chosen.probabilities(texts)[:, 1]
    assert spam == pytest.approx(plain.probabilities(texts)[:, 1])
    assert [label == "spam" for label, _ in chosen.classify(texts)] == (spam >= chosen.decision.threshold).tolist()
    likely = [1 - p if label == "ham" else p for (label, _), p in zip(chosen.classify(texts), spam, strict=True)]
    assert [p for _, p in chosen.classify(texts)] == pytest.approx(likely)
    assert chosen.classify([""])[0][0] in chosen.labels


def test_patience_ends_training_early(finetuned, examples, warnings):
    model, _ = finetuned(examples(TWO), steps=60, evaluate_every=1, patience=2, learning_rate=1.0)
    assert model.manifest.statistics["steps"] < 60
    assert any("stopped at step" in sentence for sentence in warnings.sentences)


def test_examples_that_are_kept_out_choose_nothing(build, examples):
    published = examples(TWO)
    lessons = build(
        TOKENIZE_EXAMPLES, {}, model=build(BASE, {"sources": [{"uri": "x", "label": "y"}]}), examples=published
    )
    tokenized, rows = TokenizedExamples(lessons), Examples(published).rows("validation")
    chosen = {tokenized.examples("validation")[i] for i in tuning_examples(tokenized, Examples(published))}
    keeps_out = {row.id for row in divide(rows)[1]}
    assert chosen and keeps_out and not chosen & keeps_out and chosen | keeps_out == {row.id for row in rows}


def test_labels_unknown_in_training_do_not_count_in_validation(finetuned, examples, warnings):
    rows = [*TWO, *letters(3, "egg", 2, splits=["validation"])]
    finetuned(examples(rows))
    assert any("3 validation examples have labels that training never saw" in each for each in warnings.sentences)


@pytest.mark.parametrize(
    ("rows", "config", "sentence"),
    [
        (TWO, {"positive": "egg"}, "training.positive: 'egg' is none of the labels ham, spam"),
        (TWO, {"trainable": "last:9"}, "training.trainable: cannot train 'last:9'"),
        ([*TWO, *letters(9, "egg", 2)], {"threshold": "f1"}, "there are 3 labels, and a threshold decides between two"),
        (letters(9), {}, "one label"),
        (
            [*letters(9, splits=["train"]), *letters(9, "spam", 1, ["train"]), *letters(2, "egg", 2, ["validation"])],
            {},
            "no validation example has a label that its train split has",
        ),
    ],
)
def test_examples_that_cannot_be_learnt_are_an_error(rows, config, sentence, finetuned, examples):
    with pytest.raises(InputError, match=sentence):
        finetuned(examples(rows), **config)


@pytest.mark.parametrize("config", [{"trainable": "some"}, {"trainable": "last:0"}, {"threshold": "f3"}])
def test_config_rejects_unknown_choices(config):
    with pytest.raises(ValueError, match=r"pattern|take f1, balanced_accuracy"):
        ClassifierConfig(**config)


def test_positive_label_may_be_a_number():
    assert ClassifierConfig(steps=1, positive=1).positive == "1"


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=4))
def test_balanced_weights_have_equal_totals_and_mean_one(counts):
    targets = [label for label, n in enumerate(counts) for _ in range(n)]
    weights = balanced_weights(targets, len(counts))
    totals = [weights[label].item() * n for label, n in enumerate(counts)]
    assert totals == pytest.approx([len(targets) / len(counts)] * len(counts), rel=1e-5)
    assert sum(weights[t].item() for t in targets) / len(targets) == pytest.approx(1, rel=1e-5)


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=4), seed=st.integers(0, 9))
def test_balanced_draw_has_every_class_equally_often(counts, seed):
    targets = np.array([label for label, n in enumerate(counts) for _ in range(n)])
    drawn = balanced_draw(targets)(np.random.default_rng(seed))
    each = math.ceil(len(targets) / len(counts))
    assert np.bincount(targets[drawn]).tolist() == [each] * len(counts)
