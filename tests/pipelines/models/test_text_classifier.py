"""Classifiers ready for use: probabilities of texts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt.classifier import Classifier, Decision
from gpt.config import gpt_config
from gpt.model import GPT
from pipelines.models.text_classifier import TextClassifier
from pipelines.tokens.characters import count_characters

TOKENIZER = count_characters(["abc é?"])
torch.manual_seed(2)
GPT_OF_32 = GPT(gpt_config("pico", vocabulary=TOKENIZER.vocabulary, context=32)).eval()
MODEL = TextClassifier(Classifier(GPT_OF_32, 3).eval(), Decision(("a", "b", "c"), "a"), TOKENIZER)


@settings(deadline=None, max_examples=20)
@given(texts=st.lists(st.text("abc é?", max_size=60), min_size=1, max_size=12), batch=st.integers(1, 5))
def test_batch_and_padding_change_no_probability(texts, batch):
    together = MODEL.probabilities(texts, batch)
    alone = np.concatenate([MODEL.probabilities([text]) for text in texts])
    assert together == pytest.approx(alone, abs=1e-6)
    assert together.sum(axis=1) == pytest.approx(np.ones(len(texts)))
