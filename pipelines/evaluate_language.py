"""Evaluate a language model: its loss on held-out text, beside n-gram models of the same tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn import functional as F

from gpt.config import Config
from gpt.model import GPT
from pipelines.baselines import trigram_losses, unigram_losses
from pipelines.datasets import Tokens
from pipelines.errors import InputError
from pipelines.evaluation import MODEL, Metrics, statistics, write_evaluation
from pipelines.model import open_gpt
from pipelines.step import StepType, Work
from pipelines.store import Dataset


class EvaluateLanguageConfig(Config):
    """How a language model is judged: its loss on held-out text, beside n-gram models of the same tokens."""

    split: Literal["validation", "test"] = Field(default="test", description="The split that is scored.")
    max_tokens: int = Field(default=1_000_000, gt=0, description="Most tokens of the split that are scored.")
    baselines: bool = Field(default=True, description="Count unigram and interpolated trigram models to compare with.")
    prompts: tuple[str, ...] = Field(default=(), description="Texts that the model continues, to read.")


def run_language(
    inputs: Mapping[str, Dataset], config: EvaluateLanguageConfig, out: Path, work: Work
) -> dict[str, Any]:
    """Loss, perplexity and bits per byte on a split, each token scored once with at least half a context before it."""
    model, tokens = open_gpt(inputs["model"].path), Tokens(inputs["tokens"])
    streams = _at_most([np.asarray(s) for s in tokens.streams(config.split)], config.max_tokens)
    if not sum(len(stream) > 1 for stream in streams):
        raise InputError(f"{inputs['tokens']} has no tokens in its {config.split} split to score a model on.")
    lengths = tokens.tokenizer.token_lengths  # (V,) bytes
    targets = np.concatenate([stream[1:] for stream in streams])
    n_bytes = int(lengths[targets].sum())
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
            work.report.warn("no trigram baseline: its weights need a second held-out split")
    metrics = {system: language_metrics(each, n_bytes) for system, each in losses.items()}
    documents = np.cumsum(targets == tokens.tokenizer.end_of_text)
    documents = np.concatenate([[0], documents[:-1]])
    predictions = {
        "item": doc_ids(tokens, config.split)[: documents[-1] + 1],
        "tokens": np.bincount(documents),
        "bytes": np.bincount(documents, lengths[targets]).astype(np.int64),
        **{f"{system}_loss": np.bincount(documents, each) for system, each in losses.items()},
    }
    write_evaluation(out, metrics, pa.table(predictions))
    written = model.complete(config.prompts, max_new_tokens=100, temperature=0.8) if config.prompts else []
    texts = [f"{prompt}{text}" for prompt, text in zip(config.prompts, written, strict=True)]
    if texts:
        work.report.text("generated.txt", "\n\n----\n\n".join(texts) + "\n")
        (out / "generated.txt").write_text("\n\n----\n\n".join(texts) + "\n", encoding="utf-8")
    return {"task": "language", "scored_tokens": len(targets), "scored_bytes": n_bytes, **statistics("test", metrics)}


def doc_ids(tokens: Tokens, split: str) -> list[str]:
    """The documents of a split, in the order of its tokens."""
    shards = (shard["doc_id"].to_pylist() for i, shard in enumerate(tokens.shards) if tokens.split(i) == split)
    return [doc_id for shard in shards for doc_id in shard]


@torch.inference_mode()
def sliding_losses(model: GPT, streams: Sequence[NDArray], work: Work | None = None) -> NDArray:
    """The loss of every token but each stream's first, (N,) in nats, in order.

    Windows of the context's length move by half of it, and only what no window scored before is counted, so that
    every token but a stream's first few has at least half a context before it.
    """
    context = model.config.context
    stride = max(1, context // 2)
    batch = max(1, min(32, 2**26 // (context * model.config.vocabulary)))  # logits of at most 256 MB
    where = next(model.parameters()).device
    losses: list[NDArray] = []
    done, total = 0, sum(max(len(stream) - 1, 0) for stream in streams)
    for stream in streams:
        n = len(stream) - 1
        starts = list(range(0, max(n - context, 0) + stride, stride)) if n > 0 else []
        scored = np.zeros(max(n, 0))
        for at in range(0, len(starts), batch):
            windows = starts[at : at + batch]
            rows = [torch.from_numpy(stream[s : s + context + 1].astype(np.int64)) for s in windows]
            width = max(len(row) for row in rows)
            ids = torch.stack([F.pad(row, (0, width - len(row))) for row in rows]).to(where)  # (B, T + 1)
            logits = model(ids[:, :-1]).float()  # (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(rows), -1)
            for start, row, values in zip(windows, rows, loss.cpu().numpy(), strict=True):
                first = 0 if start == 0 else context - stride
                last = len(row) - 1
                scored[start + first : start + last] = values[first:last]
            if work:
                work.report.progress(done + min(windows[-1] + context, n), total, "tokens")
        done += max(n, 0)
        losses.append(scored)
    return np.concatenate(losses)


def language_metrics(losses: NDArray, n_bytes: int) -> Metrics:
    """Mean loss in nats per token, its exponential, and the sum in bits per byte of the text that the tokens spell."""
    loss = float(losses.mean())
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700)),
        "bits_per_byte": float(losses.sum()) / math.log(2) / n_bytes if n_bytes else math.nan,
    }


def _at_most(streams: Sequence[NDArray], n: int) -> list[NDArray]:
    """The first n tokens of a split's streams."""
    kept = []
    for stream in streams:
        kept.append(stream[:n])
        n -= len(kept[-1])
        if n <= 1:
            break
    return [stream for stream in kept if len(stream) > 1]


_MODULES = (
    "pipelines.evaluate_language",
    "pipelines.evaluation",
    "pipelines.baselines",
    "pipelines.model",
    "gpt.model",
    "gpt.generate",
)


EVALUATE_LANGUAGE = StepType(
    "evaluate-language", kind="evaluation", version=3, config=EvaluateLanguageConfig, run=run_language, modules=_MODULES
)
