"""Tasks of multiple choice: the chosen text, the examples of a question, and records that are no questions."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gpt.config import Config, gpt_config
from gpt.model import GPT
from gpt.weights import save_model
from pipelines.errors import InputError
from pipelines.evaluation.compare import compare
from pipelines.evaluation.multiple_choice import EVALUATE_TASK, MultipleChoiceConfig, question, read_items
from pipelines.models.language_model import LanguageModel
from pipelines.models.scoring import log_likelihoods
from pipelines.store.step import StepType
from pipelines.tokens.characters import count_characters

TOKENIZER = count_characters(["abcdefghijklmnopqrstuvwxyz .?\n"])


def make(seed=0):
    torch.manual_seed(seed)
    gpt = GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=24, layers=1))
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return LanguageModel(gpt.eval(), TOKENIZER)


MODEL = make()
ITEMS = [
    {"prompt": f"what is {name}?", "choices": [name, "b", "no answer at all"], "answer": answer}
    for name, answer in [("a", 0), ("c", "c"), ("d", 2), ("e", "b"), ("f", 0)]
]


@pytest.fixture
def task(tmp_path):
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return {"uri": str(tmp_path / "task.jsonl")}


def write_model(inputs, config, out, work):
    save_model(make(config.seed).gpt, out)
    TOKENIZER.save(out)
    return {}


class Seed(Config):
    seed: int = 0


PRETRAINED = StepType("pretrained", kind="model", version=1, config=Seed, run=write_model)


def test_choices_are_the_likeliest_and_likeliest_per_character(build, task):
    made = build(EVALUATE_TASK, task, model=build(PRETRAINED, {}))
    items = pq.read_table(made.file("predictions.parquet")).to_pylist()
    right, normalised = [], []
    for item, source in zip(items, ITEMS, strict=True):
        choices = source["choices"]
        scores = [log_likelihoods(MODEL, [(source["prompt"], f" {choice}")])[0][0] for choice in choices]
        assert item["model_log_likelihoods"] == pytest.approx(scores, abs=1e-4)
        answer = source["answer"] if isinstance(source["answer"], str) else choices[source["answer"]]
        assert item["answer"] == answer
        right.append(choices[int(np.argmax(scores))] == answer)
        best = int(np.argmax([score / len(choice) for score, choice in zip(scores, choices, strict=True)]))
        normalised.append(choices[best] == answer)
        assert item["model_choice"] == choices[best]
    assert [item["model_right"] for item in items] == right
    assert [item["model_right_normalised"] for item in items] == normalised
    rows = {(row["system"], row["metric"]): row for row in pq.read_table(made.file("metrics.parquet")).to_pylist()}
    assert rows["model", "accuracy"]["value"] == np.mean(right) == made.manifest.statistics["task/accuracy"]
    assert (
        rows["model", "accuracy_normalised"]["low"]
        <= np.mean(normalised)
        == pytest.approx(made.manifest.statistics["task/accuracy_normalised"])
    )
    assert rows["chance", "accuracy"]["value"] == pytest.approx(1 / 3)
    assert ("choices alone", "accuracy") in rows


def test_two_models_are_compared_item_by_item(build, task):
    first, second = (build(EVALUATE_TASK, task, model=build(PRETRAINED, {"seed": seed})) for seed in (0, 1))
    found = {each.metric: each for each in compare(first, second)}
    assert found["task/accuracy"].test == "McNemar" and 0 < found["task/accuracy"].p <= 1
    assert found["task/accuracy"].second.value == second.manifest.statistics["task/accuracy"]


def test_examples_depend_on_seed_and_item_alone(task):
    config = MultipleChoiceConfig(**task, shots=2)
    items = read_items(config)
    asked = [question(item, items, config) for item in items]
    for item, text in zip(items, asked, strict=True):
        first, second, last = text.split("\n\n")
        assert last == item.prompt and first != second
        solved = {other.solved for other in items if other.id != item.id}
        assert {first, second} <= solved
    turned = [question(item, items[::-1], config) for item in items]
    assert turned == asked != [question(item, items, config.model_copy(update={"seed": 1})) for item in items]
    assert len({text.split("\n\n")[0] for text in asked}) > 1


def test_too_many_examples_are_rejected(build, task):
    with pytest.raises(InputError, match="5 items, too few to draw 5 others"):
        build(EVALUATE_TASK, task | {"shots": 5}, model=build(PRETRAINED, {}))


def test_answer_may_be_a_whole_number_with_a_point(tmp_path):
    (tmp_path / "task.jsonl").write_text(json.dumps(ITEMS[0] | {"answer": 1.0}) + "\n")
    (item,) = read_items(MultipleChoiceConfig(uri=str(tmp_path / "task.jsonl")))
    assert item.answer == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"answer": 3}, "line 2: answer is 3, which is none of the 3 choices"),
        ({"answer": "z"}, "answer is 'z'"),
        ({"answer": True}, "answer is True"),
        ({"answer": None}, "answer is missing"),
        ({"prompt": float("nan")}, "prompt is missing"),
        ({"choices": ["a"]}, "choices is not a list of two or more texts"),
        ({"choices": ["a", ""]}, "choices is not a list"),
        ({"choices": ["a", "a"]}, "two choices are the same"),
        (
            {"prompt": "what is a?", "choices": ["a", "b", "no answer at all"], "answer": 0},
            "the same question stands in the file",
        ),
    ],
)
def test_record_that_is_no_question_is_named(tmp_path, change, sentence):
    rows = [ITEMS[0], ITEMS[1] | change]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=sentence):
        read_items(MultipleChoiceConfig(uri=str(tmp_path / "task.jsonl")))
