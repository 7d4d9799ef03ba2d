"""Metrics of a language model: the losses of held-out documents, per token, word or byte."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.evaluation.metrics import Metric, measures
from pipelines.evaluation.significance import Interval, Measure, Rows, columns, intervals


@dataclass(frozen=True)
class Documents:
    """Held-out documents, (N,) each: the sum of the losses in nats, and the numbers of tokens, bytes and words."""

    losses: NDArray[Any]
    tokens: NDArray[Any]
    bytes: NDArray[Any]
    words: NDArray[Any]

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Documents:
        return Documents(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def of_predictions(cls, table: pa.Table) -> Documents:
        """Read the model's columns of `predictions.parquet`."""
        return cls(*(table[name].to_numpy() for name in ("model_loss", "tokens", "bytes", "words")))


def exponential(loss: float) -> float:
    """Return the perplexity of a loss. Losses above 700 count as 700, since a float holds no more."""
    return math.exp(min(loss, 700))


def bits(nats: float) -> float:
    """Return nats as bits."""
    return nats / math.log(2)


def _per(losses: NDArray[Any], count: NDArray[Any], scale: Any = None) -> Measure | None:
    """Measure the loss per token, byte or word. None if there are none."""
    return Measure(columns(losses, count), _ratio, scale) if count.any() else None


def _ratio(sums: Rows) -> Rows:
    return np.divide(*np.moveaxis(np.maximum(sums, (0, 1e-300)), -1, 0))


METRICS = {
    "loss": Metric(lambda each: _per(each.losses, each.tokens), lower_is_better=True, per_token=True),
    "perplexity": Metric(
        lambda each: _per(each.losses, each.tokens, exponential), lower_is_better=True, per_token=True
    ),
    "word_perplexity": Metric(lambda each: _per(each.losses, each.words, exponential), lower_is_better=True),
    "byte_perplexity": Metric(lambda each: _per(each.losses, each.bytes, exponential), lower_is_better=True),
    "bits_per_byte": Metric(lambda each: _per(each.losses, each.bytes, bits), lower_is_better=True),
}
"""Losses are in nats per token. A perplexity is the exponential of the losses per token, word or byte.

Metrics per word or byte do not depend on the tokenizer.
"""


COMPARED = ("bits_per_byte", "byte_perplexity", "word_perplexity", "loss", "perplexity")


def language_metrics(losses: NDArray, tokens: NDArray, n_bytes: NDArray, words: NDArray) -> dict[str, Interval]:
    """Return the metrics of documents by name, with intervals over the documents.

    Args:
        losses: (N,) the sum of each document's losses, in nats.
        tokens, n_bytes, words: (N,) how many of them each document has.
    """
    return intervals(measures(METRICS, Documents(losses, tokens, n_bytes, words)))
