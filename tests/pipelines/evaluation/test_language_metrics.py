"""Metrics of a language model: per token, word and byte."""

import math

import numpy as np
import pytest

from pipelines.evaluation.language_metrics import language_metrics


def test_perplexity_is_per_token_word_or_byte():
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
