"""Every token scored once with all the context it can have."""

import math
import string

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.config import gpt_config
from gpt.model import GPT
from pipelines.corpus.examples import Example
from pipelines.evaluation.assistant import nearest_answers
from pipelines.evaluation.language_metrics import language_metrics
from pipelines.models.scoring import sliding_losses

torch.manual_seed(0)
MODEL = GPT(gpt_config("pico", vocabulary=30, context=8)).eval()


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3), seed=st.integers(0, 5))
def test_every_token_is_scored_once_in_its_window(lengths, seed):
    rng = np.random.default_rng(seed)
    streams = [rng.integers(0, 30, n).astype(np.uint16) for n in lengths]
    if not any(len(stream) > 1 for stream in streams):
        return
    expected = []
    for stream in streams:
        for at in range(1, len(stream)):
            # The windows start at multiples of 4; the first that scores a target reads 8 tokens up to or past it.
            start = 0 if at <= 8 else ((at - 9) // 4 + 1) * 4
            ids = torch.from_numpy(stream[start:at].astype(np.int64))[None]
            logits = MODEL(ids)[0, -1].log_softmax(-1)
            expected.append(-logits[int(stream[at])].item())
    assert sliding_losses(MODEL, streams) == pytest.approx(expected, abs=1e-4)


def test_a_perplexity_is_per_token_word_or_byte_and_bits_per_byte_needs_no_tokenizer():
    losses, tokens, n_bytes, words = (np.array(each) for each in ([4, 8], [2, 4], [5, 7], [1, 2]))
    metrics = language_metrics(losses * math.log(2), tokens, n_bytes, words)
    expected = {"loss": math.log(4), "perplexity": 4, "word_perplexity": 16, "byte_perplexity": 2, "bits_per_byte": 1}
    assert {name: each.value for name, each in metrics.items()} == pytest.approx(expected)
    assert all(each.low - 1e-9 <= each.value <= each.high + 1e-9 for each in metrics.values())
    assert metrics["bits_per_byte"].low == pytest.approx(4 / 5) and metrics["bits_per_byte"].high == pytest.approx(
        8 / 7
    )
    wordless = language_metrics(losses, tokens, n_bytes, words * 0)
    assert set(expected) - set(wordless) == {"word_perplexity"}


def row(instruction, response):
    return Example("0", "s", "test", instruction, None, instruction, "", response)


def test_the_nearest_training_answer_is_found():
    rows = [row("what is red?", "A colour."), row("who are you?", "Nobody")]
    train = [row("what is a red thing?", "Paint."), row("tell me who you are", "I.")]
    assert nearest_answers(train, rows) == ["Paint.", "I."]


def test_the_losses_of_responses_add_up_to_the_loss_that_training_has_on_them():
    from gpt.batch import pad
    from gpt.loss import next_token_loss
    from pipelines.evaluation.assistant import response_losses
    from pipelines.models.language_model import Assistant
    from pipelines.tokens.characters import count_characters
    from pipelines.tokens.templates import template_named
    from pipelines.tokens.tokenized_examples import inputs_and_targets

    rows = [row("what is red?", "A colour."), row("who?", "Nobody"), row("long?", "x" * 300)]
    tokenizer = count_characters([string.printable])
    gpt = GPT(gpt_config("pico", vocabulary=tokenizer.vocabulary, context=256)).eval()
    model = Assistant(gpt, tokenizer, template_named("alpaca"))
    losses, counts = response_losses(model, rows)
    pairs = [inputs_and_targets(model.template, model.tokenizer, each.conversation) for each in rows[:2]]
    total, n = next_token_loss(gpt, pad([ids for ids, _ in pairs], [targets for _, targets in pairs]))
    assert losses.sum() == pytest.approx(total.item(), rel=1e-5) and counts.sum() == n
    assert (losses > 0).tolist() == [True, True, False] and counts[2] == 0
