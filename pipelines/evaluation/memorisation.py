"""Memorisation: the length of the verbatim run that a model continues a text with.

After Carlini et al. (2022), Quantifying memorization across neural language models. Runs are also long where text is
easy to guess. So held-out text is tried as well, and only the lead of training text is memorisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gpt.config import Config
from pipelines.evaluation.metrics import Metric, mean_of, measures
from pipelines.evaluation.significance import Interval, intervals

if TYPE_CHECKING:
    from gpt.model import GPT
    from pipelines.tokens.shards import Tokens


class MemorisationConfig(Config):
    """How memorisation is measured."""

    prefixes: int = Field(100, gt=0)
    """Places to try in training text and in held-out text."""
    prefix_tokens: int = Field(32, gt=0)
    """Tokens that the model reads first."""
    run_tokens: int = Field(32, gt=0)
    """Tokens that it generates."""
    at_least: int = Field(16, gt=0)
    """Tokens of a run that make a place count as memorised."""


@dataclass(frozen=True)
class Recital:
    """A model's continuation of a prefix, and the number of its first tokens that equal the text."""

    doc_id: str
    prefix: NDArray[np.integer]
    text: NDArray[np.integer]
    written: list[int]
    run: int


METRICS = {
    "memorised_run": Metric(mean_of, ("run",), lower_is_better=True),
    "memorised_share": Metric(mean_of, ("memorised",), lower_is_better=True),
    "memorised_ratio": Metric(lower_is_better=True),
}


def recite(model: GPT, tokens: Tokens, split: str, config: MemorisationConfig) -> list[Recital]:
    """Continue texts greedily from places that are spread evenly over a split. Each place lies within a document."""
    from gpt.generate import Sampling, generate  # PyTorch takes long to import, and the metrics do without

    width = config.prefix_tokens + config.run_tokens
    places = list(_places(tokens, split, width, config.prefixes))
    texts = [tokens.flat(shard)[start : start + width] for shard, _, start in places]
    written: list[list[int]] = []
    for at in range(0, len(texts), 50):
        prefixes = [text[: config.prefix_tokens].tolist() for text in texts[at : at + 50]]
        written += generate(model, prefixes, Sampling(config.run_tokens))
    found = []
    for (shard, document, _), text, ids in zip(places, texts, written, strict=True):
        prefix, rest = text[: config.prefix_tokens], text[config.prefix_tokens :]
        wrong = np.flatnonzero(np.array(ids) != rest)
        doc_id = tokens.shards[shard]["doc_id"][document].as_py()
        found.append(Recital(doc_id, prefix, rest, ids, int(wrong[0]) if len(wrong) else len(rest)))
    return found


def memorisation_metrics(
    trained: Sequence[Recital], held_out: Sequence[Recital], at_least: int
) -> dict[str, float | Interval]:
    """Return the mean run and the share of memorised places, in training text and in held-out text, by name.

    The ratio is that of the mean runs. It is left out if no held-out run has a token.
    """
    metrics: dict[str, float | Interval] = {}
    for where, recitals in (("", trained), ("_held_out", held_out)):
        runs = np.array([each.run for each in recitals])
        found = intervals(measures(METRICS, {"run": runs, "memorised": runs >= at_least}))
        metrics |= {f"{name}{where}": value for name, value in found.items()}
    guessed = np.mean([each.run for each in held_out])
    if guessed:
        metrics["memorised_ratio"] = float(np.mean([each.run for each in trained]) / guessed)
    return metrics


def _places(tokens: Tokens, split: str, width: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Yield shard, document and first token of windows, at most `most`, evenly among all windows within documents.

    The windows of a document do not overlap.
    """
    shards = [shard for shard in range(len(tokens.shards)) if tokens.split(shard) == split]
    ends = []  # for each shard, the number of windows before each document and in all
    for shard in shards:
        windows = np.maximum(-((width - np.diff(tokens.offsets(shard))) // width), 0)
        ends.append(np.concatenate([[0], np.cumsum(windows)]))
    total = np.cumsum([0, *(int(end[-1]) for end in ends)])
    chosen = np.linspace(0, total[-1] - 1, most).astype(int) if total[-1] > most else np.arange(total[-1])
    for number in chosen:
        at = int(np.searchsorted(total, number, side="right")) - 1
        number = int(number - total[at])
        document = int(np.searchsorted(ends[at], number, side="right")) - 1
        first = int(tokens.offsets(shards[at])[document])
        yield shards[at], document, first + (number - int(ends[at][document])) * width
