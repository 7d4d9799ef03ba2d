"""What fine-tuning learns from: masks, borders between prompt and response, class balance."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt.config import gpt_config
from gpt.loss import IGNORE, next_token_loss
from gpt.model import GPT
from pipelines.datasets import Example
from pipelines.finetune_assistant import training_pair
from pipelines.finetune_classifier import balanced_draw, balanced_weights
from pipelines.model import prompt_tokens
from pipelines.templates import TEMPLATES
from pipelines.tokenizers import count_characters
from pipelines.training import pad

TOKENIZER = count_characters([*(t.with_input for t in TEMPLATES.values()), "abcdefghijklmnopqrstuvwxyz ?.!"])
words = st.text("abc ?", min_size=1, max_size=8)


def example(instruction: str, response: str, input: str = "", history: tuple[str, ...] = ()) -> Example:
    return Example("0", "s", "train", instruction, None, instruction, input, response, history)


@given(instruction=words, response=words, input=st.text("abc", max_size=4), history=st.lists(words, max_size=4))
def test_targets_are_the_response_and_one_end_of_text_each_one_place_on(instruction, response, input, history):
    row = example(instruction, response, input, tuple(history[: len(history) // 2 * 2]))
    ids, targets = training_pair(TOKENIZER, TEMPLATES["plain"], row)
    counted = [target for target in targets if target != IGNORE]
    assert counted == [*TOKENIZER.encode(response).tolist(), TOKENIZER.end_of_text]
    assert len(ids) == len(targets)
    prompt = prompt_tokens(TOKENIZER, TEMPLATES["plain"], instruction, input, row.history)
    assert ids[: len(prompt)] == prompt  # what the model meets when it answers
    assert all(a == b for a, b in zip(ids[1:], targets, strict=False) if b != IGNORE)


def test_the_loss_does_not_move_when_what_stands_in_the_prompts_targets_does():
    torch.manual_seed(0)
    model = GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=128))
    ids, targets = training_pair(TOKENIZER, TEMPLATES["plain"], example("abc?", "cab"))
    loss, n = next_token_loss(model, pad([ids], [targets]))
    assert int(n) == 4
    at = targets.index(TOKENIZER.encode("cab").tolist()[0])
    logits = model(torch.tensor([ids]))[0].log_softmax(-1)
    expected = -sum(logits[i, targets[i]] for i in range(at, len(ids)))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_history_is_told_turn_by_turn_and_each_answer_ends():
    template = TEMPLATES["plain"]
    ids = prompt_tokens(TOKENIZER, template, "c?", history=("a?", "b."))
    end = TOKENIZER.end_of_text
    assert ids.count(end) == 1
    before, after = ids[: ids.index(end)], ids[ids.index(end) + 1 :]
    assert TOKENIZER.decode(before) == template.prompt("a?") + "b."
    assert TOKENIZER.decode(after) == template.follow_up("c?")


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=4))
def test_balanced_weights_give_every_class_the_same_total_and_a_mean_of_one(counts):
    targets = [label for label, n in enumerate(counts) for _ in range(n)]
    weights = balanced_weights(targets, len(counts))
    totals = [weights[label].item() * n for label, n in enumerate(counts)]
    assert totals == pytest.approx([len(targets) / len(counts)] * len(counts), rel=1e-5)
    assert sum(weights[t].item() for t in targets) / len(targets) == pytest.approx(1, rel=1e-5)


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=4), seed=st.integers(0, 9))
def test_a_balanced_draw_takes_every_class_equally_often(counts, seed):
    targets = np.array([label for label, n in enumerate(counts) for _ in range(n)])
    drawn = balanced_draw(targets)(np.random.default_rng(seed))
    each = math.ceil(len(targets) / len(counts))
    assert np.bincount(targets[drawn]).tolist() == [each] * len(counts)
