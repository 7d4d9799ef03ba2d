"""Memorisation: how long a verbatim run of a text a model goes on with, when it is given the tokens before.

After Carlini et al. (2022), Quantifying memorization across neural language models. A run is also long where text is
easy to guess, so the same is asked of held-out text: what training text has more is memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gpt.config import Config
from gpt.generate import Sampling, generate
from gpt.model import GPT
from pipelines.evaluation.significance import Interval, mean_interval
from pipelines.tokens.shards import Tokens


class MemorisationConfig(Config):
    """How memorisation is looked for."""

    prefixes: int = Field(default=100, gt=0, description="Places in training text, and in held-out text, to try.")
    prefix_tokens: int = Field(default=32, gt=0, description="Tokens that the model is given.")
    run_tokens: int = Field(default=32, gt=0, description="Tokens that it goes on with.")
    at_least: int = Field(default=16, gt=0, description="Tokens of a run from which on a place counts as memorised.")


@dataclass(frozen=True)
class Recital:
    """What a model wrote after a prefix, and how many of its tokens are those of the text."""

    doc_id: str
    prefix: NDArray[np.integer]
    text: NDArray[np.integer]
    written: list[int]
    run: int


def recite(model: GPT, tokens: Tokens, split: str, config: MemorisationConfig) -> list[Recital]:
    """Let the model go on, greedily, from places spread evenly over a split; none runs over a document's end."""
    width = config.prefix_tokens + config.run_tokens
    places = list(_places(tokens, split, width, config.prefixes))
    texts = [tokens.flat(shard)[start : start + width] for shard, _, start in places]
    written: list[list[int]] = []
    for at in range(0, len(texts), 50):
        prefixes = [text[: config.prefix_tokens].tolist() for text in texts[at : at + 50]]
        written += generate(model, prefixes, Sampling(config.run_tokens))
    found = []
    for (shard, document, _), text, said in zip(places, texts, written, strict=True):
        prefix, rest = text[: config.prefix_tokens], text[config.prefix_tokens :]
        wrong = np.flatnonzero(np.array(said) != rest)
        doc_id = tokens.shards[shard]["doc_id"][document].as_py()
        found.append(Recital(doc_id, prefix, rest, said, int(wrong[0]) if len(wrong) else len(rest)))
    return found


def memorisation_metrics(
    trained: Sequence[Recital], held_out: Sequence[Recital], at_least: int
) -> dict[str, float | Interval]:
    """Mean run, and share of places with a run of at least so many tokens: of training text, of held-out text.

    The ratio is that of the mean runs; there is none where no held-out run has a token.
    """
    metrics: dict[str, float | Interval] = {}
    for where, recitals in (("", trained), ("_held_out", held_out)):
        runs = np.array([each.run for each in recitals], float)
        metrics[f"memorised_run{where}"] = mean_interval(runs)
        metrics[f"memorised_share{where}"] = mean_interval(runs >= at_least)
    apart = np.mean([each.run for each in held_out])
    if apart:
        metrics["memorised_ratio"] = float(np.mean([each.run for each in trained]) / apart)
    return metrics


def _places(tokens: Tokens, split: str, width: int, most: int) -> Iterator[tuple[int, int, int]]:
    """Shard, document and first token of at most so many windows, of all that lie side by side in documents."""
    shards = [shard for shard in range(len(tokens.shards)) if tokens.split(shard) == split]
    ends = []  # of each shard, how many windows there are up to each document, and up to the end of the last one
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
