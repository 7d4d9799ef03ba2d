"""Evaluate a language model: its loss on held-out text, beside n-gram models of the same tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from gpt.config import Config
from pipelines.corpus.documents import Corpus
from pipelines.errors import InputError
from pipelines.evaluation.memorisation import MemorisationConfig, memorisation_metrics, recite
from pipelines.evaluation.ngram_baselines import trigram_losses, unigram_losses
from pipelines.evaluation.results import MODEL, beside, statistics, write_evaluation
from pipelines.evaluation.significance import Interval, bootstrap
from pipelines.models.language_model import LanguageModel, open_gpt
from pipelines.models.scoring import sliding_losses
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenizer import Tokenizer


class EvaluateLanguageConfig(Config):
    """How a language model is judged: its loss on held-out text, beside n-gram models of the same tokens."""

    split: Literal["validation", "test"] = Field(default="test", description="The split that is scored.")
    max_tokens: int = Field(default=1_000_000, gt=0, description="Most tokens of the split that are scored.")
    baselines: bool = Field(default=True, description="Count unigram and interpolated trigram models to compare with.")
    prompts: tuple[str, ...] = Field(default=(), description="Texts that the model continues, to read.")
    memorisation: MemorisationConfig | None = Field(
        default=MemorisationConfig(), description="How memorisation of training text is looked for."
    )


def run_language(
    inputs: Mapping[str, Dataset], config: EvaluateLanguageConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Loss, perplexity and bits per byte on a split, each token scored once with at least half a context before it."""
    model, tokens = open_gpt(inputs["model"].path), Tokens(inputs["tokens"])
    streams = _at_most([np.asarray(s) for s in tokens.streams(config.split)], config.max_tokens)
    if not sum(len(stream) > 1 for stream in streams):
        raise InputError(f"{inputs['tokens']} has no tokens in its {config.split} split to score a model on.")
    lengths = tokens.tokenizer.token_lengths  # (V,) bytes
    targets = np.concatenate([stream[1:] for stream in streams])
    losses = {MODEL: sliding_losses(model.gpt, streams, work)}
    if config.baselines:
        train, vocabulary = list(tokens.streams("train")), tokens.tokenizer.vocabulary
        tune = _at_most(
            [np.asarray(s) for s in tokens.streams("validation" if config.split == "test" else "test")], 500_000
        )
        losses["unigram"] = unigram_losses(train, streams, vocabulary)
        if any(len(stream) > 1 for stream in tune):
            losses["trigram"] = trigram_losses(train, tune, streams, vocabulary)
        else:
            work.listener.warn("no trigram baseline: its weights need a second held-out split")
    documents = np.cumsum(targets == tokens.tokenizer.end_of_text)
    documents = np.concatenate([[0], documents[:-1]])
    sizes = {
        "tokens": np.bincount(documents),
        "bytes": np.bincount(documents, lengths[targets]).astype(np.int64),
        "words": word_counts(tokens.tokenizer, targets, documents),
    }
    by_document = {system: np.bincount(documents, each) for system, each in losses.items()}
    metrics: dict[str, dict[str, float | Interval]] = {
        system: {**language_metrics(each, *sizes.values())} for system, each in by_document.items()
    }
    items = doc_ids(tokens, config.split)[: documents[-1] + 1]
    groups = document_groups(Corpus(inputs["corpus"]), items) if "corpus" in inputs else {}
    for column, names in groups.items():
        for name in sorted({each for each in names if each is not None}):
            here = np.array([each == name for each in names])
            parts = language_metrics(by_document[MODEL][here], *(size[here] for size in sizes.values()))
            metrics[MODEL] |= {f"{metric}/{column}/{name}": parts[metric] for metric in BY_GROUP if metric in parts}
    if config.memorisation:
        metrics[MODEL] |= memorised(model, tokens, config.split, config.memorisation, out, work)
    predictions = {"item": items, **sizes, **{f"{system}_loss": each for system, each in by_document.items()}, **groups}
    write_evaluation(out, metrics, pa.table(predictions))
    written = model.complete(config.prompts, max_new_tokens=100, temperature=0.8) if config.prompts else []
    texts = [f"{prompt}{text}" for prompt, text in zip(config.prompts, written, strict=True)]
    if texts:
        work.listener.text("generated.txt", "\n\n----\n\n".join(texts) + "\n")
        (out / "generated.txt").write_text("\n\n----\n\n".join(texts) + "\n", encoding="utf-8")
    return {
        "task": "language",
        "scored_tokens": len(targets),
        "scored_bytes": int(sizes["bytes"].sum()),
        "scored_words": int(sizes["words"].sum()),
        **statistics("test", metrics),
    }


def word_counts(tokenizer: Tokenizer, targets: NDArray, documents: NDArray) -> NDArray[np.int64]:
    """(documents,) words, as white space divides them, in the text that each document's tokens spell."""
    ends = np.searchsorted(documents, np.arange(documents[-1] + 2))
    special = list(tokenizer.special.values())
    counts = []
    for start, end in pairwise(ends):
        ids = targets[start:end]
        counts.append(len(tokenizer.decode(ids[~np.isin(ids, special)].tolist()).split()))
    return np.array(counts, np.int64)


BY_GROUP = ("loss", "perplexity", "bits_per_byte")
"""Metrics that each source and each language has for itself."""


def document_groups(corpus: Corpus, doc_ids: Sequence[str]) -> dict[str, list[str | None]]:
    """The source of each document, and where the corpus tells languages, its language."""
    wanted = dict.fromkeys(doc_ids)
    found: dict[str, tuple[str | None, str | None]] = {}
    for batch in corpus.batches(["doc_id", "source", "language"]):
        for doc_id, *place in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if doc_id in wanted:
                found[doc_id] = place[0], place[1]
    groups = {
        name: [found.get(doc_id, (None, None))[at] for doc_id in doc_ids]
        for at, name in enumerate(("source", "language"))
    }
    return {name: values for name, values in groups.items() if any(values)}


def memorised(
    model: LanguageModel, tokens: Tokens, split: str, config: MemorisationConfig, out: Path, work: StepContext
) -> dict[str, float | Interval]:
    """Memorisation as metrics; every place that was tried is kept in `memorisation.parquet`, to read."""
    trained, held_out = (recite(model.gpt, tokens, each, config) for each in ("train", split))
    if not trained or not held_out:
        width = config.prefix_tokens + config.run_tokens
        work.listener.warn(f"memorisation was not looked for: no document of a split has {width + 1} tokens")
        return {}
    rows = [
        {
            "split": name,
            "doc_id": each.doc_id,
            **{part: tokens.tokenizer.decode(getattr(each, part)) for part in ("prefix", "text", "written")},
            "run": each.run,
        }
        for name, recitals in (("train", trained), (split, held_out))
        for each in recitals
    ]
    pq.write_table(pa.Table.from_pylist(rows), out / "memorisation.parquet", compression="zstd")
    return memorisation_metrics(trained, held_out, config.at_least)


def doc_ids(tokens: Tokens, split: str) -> list[str]:
    """The documents of a split, in the order of its tokens."""
    shards = (shard["doc_id"].to_pylist() for i, shard in enumerate(tokens.shards) if tokens.split(i) == split)
    return [doc_id for shard in shards for doc_id in shard]


def language_metrics(losses: NDArray, tokens: NDArray, n_bytes: NDArray, words: NDArray) -> dict[str, Interval]:
    """What the losses of documents come to, with intervals over documents.

    loss: nats per token; perplexity, its exponential. word_perplexity, byte_perplexity: the exponential of the same
    sum over words or bytes, which do not depend on the tokenizer. bits_per_byte: the sum, in bits, over bytes.

    Args:
        losses: (N,) the sum of each document's losses, in nats.
        tokens, n_bytes, words: (N,) what each document has of them.
    """

    def per(count: NDArray) -> Interval:
        rows = np.stack([losses, count], 1).astype(np.float64)
        return bootstrap(rows, lambda sums: np.divide(*np.moveaxis(np.maximum(sums, (0, 1e-300)), -1, 0)))

    loss, by_byte, by_word = per(tokens), per(n_bytes), per(words)
    metrics = {
        "loss": loss,
        "perplexity": _moved(loss, _exponential),
        "word_perplexity": _moved(by_word, _exponential) if words.any() else None,
        "byte_perplexity": _moved(by_byte, _exponential) if n_bytes.any() else None,
        "bits_per_byte": _moved(by_byte, lambda nats: nats / math.log(2)) if n_bytes.any() else None,
    }
    return {name: value for name, value in metrics.items() if value is not None}


def _moved(interval: Interval, function: Callable[[float], float]) -> Interval:
    """An interval of a growing function of what it was an interval of."""
    return Interval(function(interval.value), function(interval.low), function(interval.high))


def _exponential(loss: float) -> float:
    return math.exp(min(loss, 700))


def _at_most(streams: Sequence[NDArray], n: int) -> list[NDArray]:
    """The first n tokens of a split's streams."""
    kept = []
    for stream in streams:
        kept.append(stream[:n])
        n -= len(kept[-1])
        if n <= 1:
            break
    return [stream for stream in kept if len(stream) > 1]


def _headline(s: Mapping[str, Any]) -> str:
    return f"{s['test/bits_per_byte']:.3f} bits per byte, perplexity {s['test/perplexity']:,.1f}"


def _details(dataset: Dataset) -> str:
    s = dataset.manifest.statistics
    systems = {
        "this model": "test/",
        "interpolated trigram": "test-baseline/trigram/",
        "unigram": "test-baseline/unigram/",
    }
    columns = {"bits/byte": ("bits_per_byte", "{:.3f}"), "perplexity": ("perplexity", "{:,.1f}")}
    return beside(s, systems, columns, f"{s['scored_tokens']:,} held-out tokens")


EVALUATE_LANGUAGE = StepType(
    "evaluate-language",
    kind="evaluation",
    version=4,
    config=EvaluateLanguageConfig,
    run=run_language,
    packages=("gpt", "pipelines.evaluation", "pipelines.models"),
    headline=_headline,
    details=_details,
)
