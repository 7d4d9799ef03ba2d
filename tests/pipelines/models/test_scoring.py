"""Scores of texts: every token once in its window, and likelihoods of continuations."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.config import gpt_config
from gpt.model import GPT
from pipelines.models.language_model import LanguageModel
from pipelines.models.scoring import log_likelihoods, sliding_losses
from pipelines.tokens.characters import count_characters

TOKENIZER = count_characters(["abcdefghijklmnopqrstuvwxyz .?\n"])


def make(**sizes):
    torch.manual_seed(0)
    gpt = GPT(gpt_config("pico", layers=1, **sizes))
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return gpt.eval()


SHORT = make(vocabulary=30, context=8)
MODEL = LanguageModel(make(vocabulary=TOKENIZER.vocabulary, context=24), TOKENIZER)
texts = st.text("abc d", max_size=20)


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
            # Windows start at multiples of 4. The first that scores a target reads 8 tokens up to or past it.
            start = 0 if at <= 8 else ((at - 9) // 4 + 1) * 4
            ids = torch.from_numpy(stream[start:at].astype(np.int64))[None]
            logits = SHORT(ids)[0, -1].log_softmax(-1)
            expected.append(-logits[int(stream[at])].item())
    assert sliding_losses(SHORT, streams) == pytest.approx(expected, abs=1e-4)


@given(pairs=st.lists(st.tuples(texts, st.text("abc d", min_size=1, max_size=12)), min_size=1, max_size=6))
def test_likelihood_is_the_sum_of_tokens_in_any_batch(pairs):
    found = log_likelihoods(MODEL, pairs, batch_size=3)
    for (context, continuation), (value, greedy) in zip(pairs, found, strict=True):
        kept = context.rstrip()
        before = TOKENIZER.encode(kept).tolist() or [TOKENIZER.end_of_text]
        after = TOKENIZER.encode(context[len(kept) :] + continuation).tolist()
        ids = [*before, *after][-25:]
        n = min(len(after), 24)
        logits = MODEL.gpt(torch.tensor([ids[:-1]]))[0].log_softmax(-1)[-n:]
        expected = sum(logits[i, token].item() for i, token in enumerate(ids[-n:]))
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy == (logits.argmax(-1).tolist() == ids[-n:])
