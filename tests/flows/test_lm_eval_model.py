"""lm-eval on our model: its numbers equal ours."""

import json
import os

import numpy as np
import pytest
import torch

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is an extra: pip install tokenmill[lm-eval]")

from gpt.config import gpt_config
from gpt.generate import Sampling
from gpt.model import GPT
from pipelines.evaluation.language_metrics import language_metrics
from pipelines.evaluation.multiple_choice import Item, MultipleChoiceConfig, question, read_items, score
from pipelines.models.language_model import LanguageModel
from pipelines.models.scoring import sliding_losses
from pipelines.store.step import Listener, StepContext
from pipelines.tokens.characters import count_characters

TOKENIZER = count_characters(["abcdefghijklmnopqrstuvwxyz .?\n"])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    gpt = GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=32, layers=1))
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return LanguageModel(gpt.eval(), TOKENIZER)


@pytest.fixture
def evaluate(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def run(rows, **task):
        from lm_eval.tasks import TaskManager

        from flows.lm_eval_model import TokenmillLM

        file = tmp_path / f"{task['output_type']}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        dataset = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
        done = lm_eval.simple_evaluate(
            TokenmillLM(model),
            tasks=[{"task": "ours", **dataset, **task}],
            bootstrap_iters=0,
            log_samples=True,
            task_manager=TaskManager(include_defaults=False),
        )
        return done["results"]["ours"], [sample["resps"] for sample in done["samples"]["ours"]]

    return run


def test_accuracy_equals_ours(model, evaluate, tmp_path):
    rng = np.random.default_rng(0)

    def word():
        return "".join(rng.choice(list("abcdefg"), rng.integers(1, 9)))

    rows = [
        {"prompt": f"{word()} {word()}?", "choices": [word(), f"{word()} x", word()], "answer": i % 3}
        for i in range(24)
    ]
    theirs, _ = evaluate(
        rows,
        output_type="multiple_choice",
        doc_to_text="{{prompt}}",
        doc_to_choice="choices",
        doc_to_target="answer",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )
    config = MultipleChoiceConfig(uri=str(tmp_path / "multiple_choice.jsonl"))
    items = read_items(config)
    scores = score(model, items, [question(item, items, config) for item in items], StepContext(tmp_path, Listener()))
    right = [each.argmax() == item.answer for each, item in zip(scores, items, strict=True)]
    lengths = [[len(choice) for choice in item.choices] for item in items]
    normalised = [(s / n).argmax() == i.answer for s, n, i in zip(scores, map(np.array, lengths), items, strict=True)]
    assert theirs["acc,none"] == np.mean(right) and theirs["acc_norm,none"] == np.mean(normalised)
    assert isinstance(items[0], Item) and 0 < np.mean(right) < 1


def test_perplexities_and_bits_per_byte_equal_ours(model, evaluate):
    texts = ["a bad cab. " * 8, "deaf cage", "abc " * 30]
    theirs, _ = evaluate(
        [{"text": text} for text in texts],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    )
    streams = [np.array([TOKENIZER.end_of_text, *TOKENIZER.encode(text).tolist()]) for text in texts]
    losses = np.array([sliding_losses(model.gpt, [stream]).sum() for stream in streams])
    # lm-eval splits at every white space, so a text's last one begins an empty word
    words = np.array([len(text.split()) + (text != text.rstrip()) for text in texts])
    ours = language_metrics(losses, words, np.array([len(text) for text in texts]), words)
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert theirs[f"{name},none"] == pytest.approx(ours[name].value, rel=1e-6)


def test_text_ends_before_a_stop_text(model, evaluate):
    rows = [{"prompt": "abc", "answer": "x"}, {"prompt": "deaf", "answer": "x"}]
    task = {"doc_to_text": "{{prompt}}", "doc_to_target": "answer", "metric_list": [{"metric": "exact_match"}]}
    settings = {"max_gen_toks": 12, "until": ["\n\n\n\n"]}
    _, free = evaluate(rows, output_type="generate_until", generation_kwargs=settings, **task)
    whole = [model.complete([row["prompt"]], Sampling(12))[0] for row in rows]
    assert [each[0][0] for each in free] == whole
    stop = whole[0][3]
    _, cut = evaluate(rows, output_type="generate_until", generation_kwargs=settings | {"until": [stop]}, **task)
    assert [each[0][0] for each in cut] == [text.split(stop)[0] for text in whole]
    assert os.environ["HF_DATASETS_OFFLINE"] == "1"
