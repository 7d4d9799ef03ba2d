"""Memorisation: the length of the verbatim run that a model continues a text with.

After Carlini et al. (2022), Quantifying memorization across neural language models. Runs are also long where text is
easy to guess. So held-out text is tried as well, and only the lead of training text is memorisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
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


METRICS = {
    "memorised_run": Metric(mean_of, ("run",), lower_is_better=True),
    "memorised_share": Metric(mean_of, ("memorised",), lower_is_better=True),
    "memorised_ratio": Metric(lower_is_better=True),
}


def recite(model: GPT, tokens: Tokens, split: str, config: MemorisationConfig) -> list[dict[str, Any]]:
    """Continue texts greedily from places that are spread evenly over a split. Each place lies within a document.

    Returns:
        The split, the document, the prefix, the text after it and the text that the model wrote at each place, and
        the run: how many of the model's first tokens equal the text's.
    """
    from gpt.generate import Sampling, generate  # PyTorch takes long to import, and the metrics do without

    width, decode = config.prefix_tokens + config.run_tokens, tokens.tokenizer.decode
    places, rows = _places(tokens, split, width, config.prefixes), []
    for at in range(0, len(places), 50):
        some = places[at : at + 50]
        windows = [
            np.split(tokens.known(tokens.flat(shard)[start : start + width]), [config.prefix_tokens])
            for shard, _, start in some
        ]
        written = generate(model, [prefix.tolist() for prefix, _ in windows], Sampling(config.run_tokens))
        for (shard, document, _), (prefix, text), ids in zip(some, windows, written, strict=True):
            doc_id = tokens.shards[shard]["doc_id"][document].as_py()
            texts = {"prefix": decode(prefix), "text": decode(text), "written": decode(ids)}
            run = int((np.array(ids) == text).cumprod().sum())
            rows.append({"split": split, "doc_id": doc_id, **texts, "run": run})
    return rows


def memorisation_metrics(trained: Sequence[int], held_out: Sequence[int], at_least: int) -> dict[str, float | Interval]:
    """Return the mean run and the share of memorised places, in training text and in held-out text, by name.

    The ratio is that of the mean runs. It is left out if no held-out run has a token.

    Args:
        trained, held_out: the runs.
        at_least: the run of a memorised place.
    """
    metrics: dict[str, float | Interval] = {}
    for where, runs in (("", trained), ("_held_out", held_out)):
        found = intervals(measures(METRICS, {"run": runs, "memorised": np.array(runs) >= at_least}))
        metrics |= {f"{name}{where}": value for name, value in found.items()}
    if guessed := np.mean(held_out):
        metrics["memorised_ratio"] = float(np.mean(trained) / guessed)
    return metrics


def _places(tokens: Tokens, split: str, width: int, most: int) -> list[tuple[int, int, int]]:
    """Return shard, document and first token of windows, at most `most`, evenly among all windows within documents.

    The windows of a document do not overlap.
    """
    shards = tokens.shards_of(split)
    offsets = [tokens.offsets(shard) for shard in shards]
    sizes = [len(each) - 1 for each in offsets]
    # of each document in the split: its shard, its number there, its first token, and how many windows it has
    shard = np.repeat(shards, sizes).astype(int)
    number = np.concatenate([np.arange(0), *map(np.arange, sizes)])
    first = np.concatenate([np.arange(0), *(each[:-1] for each in offsets)])
    lengths = np.concatenate([np.arange(0), *map(np.diff, offsets)])
    windows = np.maximum(-((width - lengths) // width), 0)
    ends = np.cumsum(windows)
    total = int(windows.sum())
    chosen = np.linspace(0, total - 1, most).astype(int) if total > most else np.arange(total)
    document = np.searchsorted(ends, chosen, side="right")
    starts = first[document] + (chosen - ends[document] + windows[document]) * width
    return list(zip(shard[document].tolist(), number[document].tolist(), starts.tolist(), strict=True))
