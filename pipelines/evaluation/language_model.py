"""Evaluate a language model: its loss on held-out text, beside n-gram models of the same tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from pipelines.evaluation.language_metrics import METRICS, language_metrics
from pipelines.evaluation.memorisation import MemorisationConfig, memorisation_metrics, recite
from pipelines.evaluation.metrics import measures
from pipelines.evaluation.ngram_baselines import trigram_losses, unigram_losses
from pipelines.evaluation.results import MODEL, beside, statistics, write_evaluation
from pipelines.evaluation.significance import Interval, intervals
from pipelines.models.language_model import SAMPLING, LanguageModel, open_gpt
from pipelines.models.scoring import sliding_losses
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.shards import Tokens
from pipelines.tokens.tokenizer import Tokenizer


class EvaluateLanguageConfig(Config):
    """How a language model is evaluated: its loss on held-out text, beside n-gram models of the same tokens."""

    split: Literal["validation", "test"] = "test"
    """The split that is scored."""
    max_tokens: int = Field(1_000_000, gt=0)
    """Most tokens of the split that are scored."""
    baselines: bool = True
    """Count unigram and interpolated trigram models to compare with."""
    prompts: tuple[str, ...] = ()
    """Texts that the model continues, to read."""
    memorisation: MemorisationConfig | None = MemorisationConfig()
    """How memorisation of training text is measured."""


BY_GROUP = ("loss", "perplexity", "bits_per_byte")
"""The metrics that are computed for each source and each language as well."""


def run_language(
    inputs: Mapping[str, Dataset], config: EvaluateLanguageConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Score a split: every token once, with at least half a context before it, beside n-gram models."""
    model, tokens = open_gpt(inputs["model"].path), Tokens(inputs["tokens"])
    streams = _streams(tokens, config.split, config.max_tokens)
    if not streams:
        raise InputError(f"{inputs['tokens']} has no tokens in its {config.split} split to score a model on.")
    losses = {MODEL: sliding_losses(model.gpt, streams, work)}
    if config.baselines:
        learned = Tokens(inputs["trained_on"]) if "trained_on" in inputs else tokens
        losses |= baseline_losses(learned, streams, config.split, work)
    targets = np.concatenate([stream[1:] for stream in streams])
    documents, sizes = document_sizes(tokens.tokenizer, targets)
    by_document = {system: np.bincount(documents, each) for system, each in losses.items()}
    items = doc_ids(tokens, config.split)[: documents[-1] + 1]
    groups = document_groups(Corpus(inputs["corpus"]), items) if "corpus" in inputs else {}
    metrics: dict[str, dict[str, float | Interval]] = {
        system: {**language_metrics(each, *sizes.values())} for system, each in by_document.items()
    }
    metrics[MODEL] |= group_metrics({"loss": by_document[MODEL], **sizes}, groups)
    if config.memorisation:
        metrics[MODEL] |= memorised(model, tokens, config.split, config.memorisation, out, work)
    predictions = {"item": items, **sizes, **{f"{system}_loss": each for system, each in by_document.items()}, **groups}
    write_evaluation(out, metrics, pa.table(predictions))
    continue_prompts(model, config.prompts, out, work)
    return {
        "task": "language",
        "scored_tokens": len(targets),
        "scored_bytes": int(sizes["bytes"].sum()),
        "scored_words": int(sizes["words"].sum()),
        **statistics("test", metrics),
    }


def baseline_losses(
    tokens: Tokens, streams: Sequence[NDArray], split: str, work: StepContext
) -> dict[str, NDArray[np.float64]]:
    """Return the loss of every scored token under n-gram models, by system."""
    train, vocabulary = list(tokens.streams("train")), tokens.tokenizer.vocabulary
    losses = {"unigram": unigram_losses(train, streams, vocabulary)}
    if tune := _streams(tokens, "validation" if split == "test" else "test", 500_000):
        losses["trigram"] = trigram_losses(train, tune, streams, vocabulary)
    else:
        work.listener.warn("no trigram baseline: its weights need a second held-out split")
    return losses


def document_sizes(tokenizer: Tokenizer, targets: NDArray) -> tuple[NDArray[np.int64], dict[str, NDArray[np.int64]]]:
    """Return the document of each target (N,), and the tokens, bytes and words of each document by these names."""
    ends = np.cumsum(targets == tokenizer.end_of_text)
    documents = np.concatenate([[0], ends[:-1]])
    sizes = {
        "tokens": np.bincount(documents),
        "bytes": np.bincount(documents, tokenizer.token_lengths[targets]).astype(np.int64),
        "words": word_counts(tokenizer, targets, documents),
    }
    return documents, sizes


def word_counts(tokenizer: Tokenizer, targets: NDArray, documents: NDArray) -> NDArray[np.int64]:
    """Return (documents,) words, split at white space, in the decoded text of each document."""
    plain = ~np.isin(targets, list(tokenizer.special.values()))
    ends = np.searchsorted(documents[plain], np.arange(1, documents[-1] + 1))
    texts = (tokenizer.decode(ids.tolist()) for ids in np.split(targets[plain], ends))
    return np.array([len(text.split()) for text in texts], np.int64)


def doc_ids(tokens: Tokens, split: str) -> list[str]:
    """Return the documents of a split, in the order of its tokens."""
    return [doc_id for shard in tokens.shards_of(split) for doc_id in tokens.shards[shard]["doc_id"].to_pylist()]


def document_groups(corpus: Corpus, doc_ids: Sequence[str]) -> dict[str, list[str | None]]:
    """Return the source of each document, and its language if the corpus detects languages."""
    wanted, found = pa.array(doc_ids), {}
    for batch in corpus.batches(["doc_id", "source", "language"]):
        for row in batch.filter(pa.compute.is_in(batch["doc_id"], wanted)).to_pylist():
            found[row["doc_id"]] = row
    groups = {name: [found.get(doc_id, {}).get(name) for doc_id in doc_ids] for name in ("source", "language")}
    return {name: values for name, values in groups.items() if any(values)}


def group_metrics(
    columns: Mapping[str, NDArray[Any]], groups: Mapping[str, Sequence[str | None]]
) -> dict[str, Interval]:
    """Return the metrics BY_GROUP of each source and each language, named `metric/source/NAME`."""
    metrics = {name: METRICS[name] for name in BY_GROUP}
    found: dict[str, Interval] = {}
    for kind, names in groups.items():
        for name in sorted({each for each in names if each is not None}):
            chosen = np.array([each == name for each in names])
            part = measures(metrics, {column: values[chosen] for column, values in columns.items()})
            found |= {f"{metric}/{kind}/{name}": value for metric, value in intervals(part).items()}
    return found


def memorised(
    model: LanguageModel, tokens: Tokens, split: str, config: MemorisationConfig, out: Path, work: StepContext
) -> dict[str, float | Interval]:
    """Return the metrics of memorisation, and write every place that was tried to `memorisation.parquet`."""
    trained, held_out = (recite(model.gpt, tokens, each, config) for each in ("train", split))
    if not trained or not held_out:
        width = config.prefix_tokens + config.run_tokens
        work.listener.warn(f"memorisation was not looked for: no document of a split has {width + 1} tokens")
        return {}
    pq.write_table(pa.Table.from_pylist([*trained, *held_out]), out / "memorisation.parquet", compression="zstd")
    runs, held_out_runs = ([place["run"] for place in places] for places in (trained, held_out))
    return memorisation_metrics(runs, held_out_runs, config.at_least)


BETWEEN = "\n\n----\n\n"
"""What separates the continuations in `generated.txt`."""


def continue_prompts(model: LanguageModel, prompts: Sequence[str], out: Path, work: StepContext) -> None:
    """Write the prompts with the model's continuations to `generated.txt`, if there are prompts."""
    if not prompts:
        return
    continuations = model.complete(prompts, replace(SAMPLING, max_new_tokens=100))
    text = BETWEEN.join(map("".join, zip(prompts, continuations, strict=True))) + "\n"
    work.listener.text("generated.txt", text)
    (out / "generated.txt").write_text(text, encoding="utf-8")


def _streams(tokens: Tokens, split: str, n: int) -> list[NDArray]:
    """Return the first n tokens of a split's streams, without streams of a single token."""
    kept: list[NDArray] = []
    for stream in tokens.streams(split):
        kept.append(np.asarray(stream)[:n])
        n -= len(kept[-1])
        if n <= 1:
            break
    return [stream for stream in kept if len(stream) > 1]


def _headline(s: Mapping[str, Any]) -> str:
    return f"{s['test/bits_per_byte']:.3f} bits per byte, perplexity {s['test/perplexity']:,.1f}"


def _details(dataset: Dataset) -> str:
    s = dataset.manifest.statistics
    baselines = {"trigram": "interpolated trigram", "unigram": "unigram"}
    columns = {"bits/byte": ("bits_per_byte", "{:.3f}"), "perplexity": ("perplexity", "{:,.1f}")}
    return beside(s, "test", baselines, columns, f"{s['scored_tokens']:,} held-out tokens")


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
