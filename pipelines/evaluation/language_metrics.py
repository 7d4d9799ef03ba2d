"""Metrics of a language model: the losses of held-out documents, per token, word or byte."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from pipelines.evaluation.metrics import Measure, Metric, Rows, Values, columns, measures
from pipelines.evaluation.significance import Interval, intervals


def _loss_per(losses: Values, count: Values, scale: Callable[[float], float] = float) -> Measure | None:
    """Measure the losses per token, byte or word. None if there are none."""
    return Measure(columns(losses, count), _ratio, scale) if np.any(count) else None


def _ratio(sums: Rows) -> Rows:
    return np.divide(*np.moveaxis(np.maximum(sums, (0, 1e-300)), -1, 0))


_perplexity = partial(_loss_per, scale=lambda loss: math.exp(min(loss, 700)))  # a float holds no more


METRICS = {
    "loss": Metric(_loss_per, ("loss", "tokens"), lower_is_better=True, per_token=True),
    "perplexity": Metric(_perplexity, ("loss", "tokens"), lower_is_better=True, per_token=True),
    "word_perplexity": Metric(_perplexity, ("loss", "words"), lower_is_better=True),
    "byte_perplexity": Metric(_perplexity, ("loss", "bytes"), lower_is_better=True),
    "bits_per_byte": Metric(
        partial(_loss_per, scale=lambda nats: nats / math.log(2)), ("loss", "bytes"), lower_is_better=True
    ),
}
"""Losses are in nats per token. A perplexity is the exponential of the losses per token, word or byte.

Metrics per word or byte do not depend on the tokenizer.
"""


COMPARED = ("bits_per_byte", "byte_perplexity", "word_perplexity", "loss", "perplexity")
"""The metrics that a comparison tests, in its order."""


def language_metrics(losses: Values, tokens: Values, n_bytes: Values, words: Values) -> dict[str, Interval]:
    """Return the metrics of documents by name, with intervals over the documents.

    Args:
        losses: (N,) the sum of each document's losses, in nats.
        tokens, n_bytes, words: (N,) how many of them each document has.
    """
    return intervals(measures(METRICS, {"loss": losses, "tokens": tokens, "bytes": n_bytes, "words": words}))
