"""Evaluations of assistants: answers, losses of responses, and the baselines."""

import json
import string

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gpt.batch import pad
from gpt.config import Config, gpt_config
from gpt.loss import next_token_loss
from gpt.model import GPT
from gpt.weights import save_model
from pipelines.corpus.examples import EXAMPLES, Example, Examples
from pipelines.corpus.kept_out import divide
from pipelines.evaluation.assistant import EVALUATE_ASSISTANT, nearest_answers, response_losses
from pipelines.evaluation.trial import TRY
from pipelines.models.language_model import Assistant, LanguageModel, as_assistant
from pipelines.store.step import StepType
from pipelines.tokens.characters import count_characters
from pipelines.tokens.templates import save_template, shipped, template_named
from pipelines.tokens.tokenized_examples import inputs_and_targets

TOKENIZER = count_characters([*(path.read_text() for path in shipped().values()), string.printable])


def row(instruction, response):
    return Example("0", "s", "test", instruction, None, instruction, "", response)


def test_nearest_training_answer_is_found():
    rows = [row("what is red?", "A colour."), row("who are you?", "Nobody")]
    train = [row("what is a red thing?", "Paint."), row("tell me who you are", "I.")]
    assert nearest_answers(train, rows) == ["Paint.", "I."]


def test_instructions_without_a_word_have_a_nearest_answer():
    train = [Example("a", "s", "train", "?!", response="Yes."), Example("b", "s", "train", "...", response="No.")]
    assert nearest_answers(train, [Example("c", "s", "test", "??")]) == ["Yes."]


def test_losses_of_responses_add_up_to_the_training_loss():
    rows = [row("what is red?", "A colour."), row("who?", "Nobody"), row("long?", "x" * 300)]
    gpt = GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=256)).eval()
    model = Assistant(gpt, TOKENIZER, template_named("alpaca"))
    losses, counts = response_losses(model, rows)
    pairs = [inputs_and_targets(model.template, model.tokenizer, each.conversation) for each in rows[:2]]
    total, n = next_token_loss(gpt, pad([ids for ids, _ in pairs], [targets for _, targets in pairs]))
    assert losses.sum() == pytest.approx(total.item(), rel=1e-5) and counts.sum() == n
    assert (losses > 0).tolist() == [True, True, False] and counts[2] == 0


# The step


def write_assistant(inputs, config, out, work):
    torch.manual_seed(0)
    gpt = GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=100, layers=1, width=16, zero_init=False))
    model = as_assistant(LanguageModel(gpt, TOKENIZER), template_named("chatml"))
    save_model(model.gpt, out, model.stop[0][0])
    model.tokenizer.save(out)
    save_template(model.template, out / "template.json")
    return {}


def write_base(inputs, config, out, work):
    torch.manual_seed(1)
    save_model(GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=100, layers=1, width=16)), out)
    TOKENIZER.save(out)
    return {}


ASSISTANT = StepType("assistant", kind="model", version=1, config=Config, run=write_assistant)
BASE = StepType("base", kind="model", version=1, config=Config, run=write_base)


@pytest.fixture
def examples(build, tmp_path):
    rows = [{"instruction": f"a{'b' * (i % 7)} {i}?", "response": "c" * (1 + i % 3)} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"uri": str(tmp_path / "rows.jsonl"), "response": "response"}
    return build(EXAMPLES, {"sources": [source], "split": {"validation": 0.3}})


def test_assistant_is_evaluated_beside_base_and_retrieval(build, warnings, examples):
    roles = {"model": build(ASSISTANT, {}), "base": build(BASE, {}), "examples": examples}
    judge = {"url": "http://127.0.0.1:9/v1", "model": "nobody", "retries": 0, "timeout": 1}
    made = build(EVALUATE_ASSISTANT, {"split": "validation", "max_new_tokens": 4, "judge": judge}, **roles)
    statistics, items = made.manifest.statistics, pq.read_table(made.file("predictions.parquet")).to_pylist()
    assert statistics["scored_examples"] == len(items) == len({item["item"] for item in items}) > 5
    assert {item["judge_status"] for item in items} == {"unreachable: ConnectError"}
    assert statistics["judged_examples"] == 0 and all(item["model_answer"] in item["judge_prompt"] for item in items)
    assert f"{len(items)} of {len(items)} answers have no score from the judge" in warnings.sentences[-1]
    rows = pq.read_table(made.file("metrics.parquet")).to_pylist()
    metrics = {(row["system"], row["metric"]): row for row in rows}
    for name in ("loss", "chrf", "rouge_l", "exact_match", "repetition", "length_ratio", "ended", "distinct_1"):
        row = metrics["model", name]
        assert row["low"] <= row["value"] <= row["high"] and statistics[f"instruct/{name}"] == row["value"]
    losses, tokens = (np.array([item[name] for item in items]) for name in ("model_loss", "tokens"))
    assert statistics["instruct/loss"] == pytest.approx(losses.sum() / tokens.sum())
    assert statistics["instruct/rouge_l"] == pytest.approx(np.mean([item["model_rouge_l"] for item in items]))
    assert {"distinct_1", "distinct_2"} <= {name for system, name in metrics if system == "nearest instruction"}
    assert metrics["base model", "loss"]["value"] != metrics["model", "loss"]["value"]


def test_trial_of_an_assistant_reads_only_what_is_kept_out(build, examples):
    roles = {"model": build(ASSISTANT, {}), "base": build(BASE, {}), "examples": examples}
    model, base = (build(TRY, {"baseline": each, "max_new_tokens": 2}, **roles) for each in (False, True))
    items = [pq.read_table(each.file("predictions.parquet"), columns=["item"])["item"] for each in (model, base)]
    rows = Examples(examples).rows("validation")
    assert items[0] == items[1] and set(items[0].to_pylist()) == {row.id for row in divide(rows)[1]}
    assert model.manifest.statistics["trial/loss"] != base.manifest.statistics["trial/loss"]
    assert "trial/chrf" in model.manifest.statistics
