"""Evaluate: a model on held-out data beside honest baselines, every item's prediction kept.

An evaluation holds `metrics.parquet` (system, metric, value) and `predictions.parquet` (an item a row). The model is
one system among others; its metrics stand in the statistics under their own names, a baseline's behind its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn import functional as F

from gpt.config import Config
from gpt.loss import next_token_loss
from gpt.model import GPT
from pipelines.baselines import majority_class, tfidf_logistic_regression, trigram_losses, unigram_losses
from pipelines.datasets import Example, Examples, Tokens
from pipelines.errors import InputError
from pipelines.finetune import training_pair
from pipelines.model import Assistant, LanguageModel, TextClassifier, open_gpt, open_model
from pipelines.step import StepType, Work
from pipelines.store import Dataset
from pipelines.training import pad

Metrics = dict[str, float]
MODEL = "model"


class EvaluateLanguageConfig(Config):
    """How a language model is judged: its loss on held-out text, beside n-gram models of the same tokens."""

    split: Literal["validation", "test"] = Field(default="test", description="The split that is scored.")
    max_tokens: int = Field(default=1_000_000, gt=0, description="Most tokens of the split that are scored.")
    baselines: bool = Field(default=True, description="Count unigram and interpolated trigram models to compare with.")
    prompts: tuple[str, ...] = Field(default=(), description="Texts that the model continues, to read.")


class EvaluateClassifierConfig(Config):
    """How a classifier is judged: on held-out examples, beside classifiers without a GPT."""

    split: Literal["validation", "test"] = Field(default="test", description="The split that is scored.")
    positive: str | None = Field(
        default=None,
        description="The label that precision, recall and F1 are about; by default the rarest in training.",
    )


class EvaluateAssistantConfig(Config):
    """How an assistant is judged: on held-out instructions, beside the base model and a retrieval of answers."""

    split: Literal["validation", "test"] = Field(default="test", description="The split that is scored.")
    max_new_tokens: int = Field(default=64, gt=0, description="Longest answer, in tokens.")
    shown: int = Field(default=10, ge=0, description="Answers kept in the summary, to read.")


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
        "item": np.arange(documents[-1] + 1),
        "tokens": np.bincount(documents),
        "bytes": np.bincount(documents, lengths[targets]).astype(np.int64),
        **{f"{system}_loss": np.bincount(documents, each) for system, each in losses.items()},
    }
    _write(out, metrics, pa.table(predictions))
    written = model.complete(config.prompts, max_new_tokens=100, temperature=0.8) if config.prompts else []
    texts = [f"{prompt}{text}" for prompt, text in zip(config.prompts, written, strict=True)]
    if texts:
        work.report.text("generated.txt", "\n\n----\n\n".join(texts) + "\n")
        (out / "generated.txt").write_text("\n\n----\n\n".join(texts) + "\n", encoding="utf-8")
    return {"task": "language", "scored_tokens": len(targets), "scored_bytes": n_bytes, **_statistics("test", metrics)}


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


def run_classifier(
    inputs: Mapping[str, Dataset], config: EvaluateClassifierConfig, out: Path, work: Work
) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 and the confusion matrix, beside TF-IDF logistic regression and the majority."""
    model, examples = open_model(inputs["model"].path), Examples(inputs["examples"])
    if not isinstance(model, TextClassifier):
        raise InputError(f"{inputs['model']} is no classifier.")
    train, rows = examples.rows("train"), examples.rows(config.split)
    unknown = sorted({row.label or "" for row in rows} - set(model.labels))
    if unknown:
        work.report.warn(f"labels that training never saw count as errors: {', '.join(unknown)}")
    if not rows:
        raise InputError(f"{inputs['examples']} has no {config.split} examples to judge a classifier on.")
    labels = [*model.labels, *unknown]
    train_labels = np.array([labels.index(row.label or "") for row in train])
    truth = np.array([labels.index(row.label or "") for row in rows])
    positive = config.positive or labels[int(np.bincount(train_labels, minlength=len(model.labels)).argmin())]
    if positive not in labels:
        raise InputError(f"evaluate.positive: {positive!r} is none of the labels {', '.join(labels)}.")
    texts = [row.text for row in rows]
    probabilities = {MODEL: model.probabilities(texts)}
    for baseline in (
        tfidf_logistic_regression([row.text for row in train], train_labels, texts, len(model.labels)),
        majority_class(train_labels, len(rows), len(model.labels)),
    ):
        probabilities[baseline.system] = baseline.probabilities
    metrics = {
        system: classification_metrics(truth, each.argmax(axis=1), labels, positive)
        for system, each in probabilities.items()
    }
    confusion = confusion_matrix(truth, probabilities[MODEL].argmax(axis=1), len(labels))
    pq.write_table(
        pa.table(
            {
                "truth": [labels[i] for i in range(len(labels)) for _ in labels],
                "predicted": [label for _ in labels for label in labels],
                "count": confusion.flatten(),
            }
        ),
        out / "confusion.parquet",
    )
    predictions = {"item": [row.id for row in rows], "text": texts, "truth": [row.label for row in rows]}
    for system, each in probabilities.items():
        key = _key(system)
        predictions[f"{key}_label"] = [labels[i] for i in each.argmax(axis=1)]
        predictions[f"{key}_probability"] = each.max(axis=1)
    _write(out, metrics, pa.table(predictions))
    return {
        "task": "classification",
        "scored_examples": len(rows),
        "positive": positive,
        **_statistics("classify", metrics),
        **{
            f"confusion/{labels[i]}_as_{labels[j]}": int(confusion[i, j])
            for i in range(len(labels))
            for j in range(len(labels))
            if len(labels) <= 10
        },
    }


def confusion_matrix(truth: NDArray, predicted: NDArray, n_classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts: truth down, prediction across."""
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def classification_metrics(truth: NDArray, predicted: NDArray, labels: Sequence[str], positive: str) -> Metrics:
    """Accuracy over all classes; precision, recall and F1 of the positive class; F1 as the mean over classes.

    A ratio whose denominator is empty counts as 0, as scikit-learn has it with `zero_division=0`.
    """
    confusion = confusion_matrix(truth, predicted, len(labels))
    right = np.diag(confusion).astype(float)
    said, real = confusion.sum(axis=0), confusion.sum(axis=1)
    precision = np.divide(right, said, out=np.zeros(len(labels)), where=said > 0)
    recall = np.divide(right, real, out=np.zeros(len(labels)), where=real > 0)
    f1 = np.divide(2 * right, said + real, out=np.zeros(len(labels)), where=said + real > 0)
    seen = (said + real) > 0
    at = labels.index(positive)
    return {
        "accuracy": float(right.sum() / confusion.sum()),
        "precision": float(precision[at]),
        "recall": float(recall[at]),
        "f1": float(f1[at]),
        "f1_macro": float(f1[seen].mean()),
    }


def run_assistant(
    inputs: Mapping[str, Dataset], config: EvaluateAssistantConfig, out: Path, work: Work
) -> dict[str, Any]:
    """Loss on held-out responses, chrF and exact match of greedy answers, beside the base model and retrieval."""
    model, examples = open_model(inputs["model"].path), Examples(inputs["examples"])
    if not isinstance(model, Assistant):
        raise InputError(f"{inputs['model']} is no assistant.")
    rows = examples.rows(config.split)
    if not rows:
        raise InputError(f"{inputs['examples']} has no {config.split} examples to judge an assistant on.")
    systems: dict[str, LanguageModel] = {MODEL: model}
    if "base" in inputs:
        base = open_gpt(inputs["base"].path)
        systems["base model"] = Assistant(base.gpt, base.tokenizer, model.template)
    answers: dict[str, list[str]] = {}
    metrics: dict[str, Metrics] = {}
    for system, each in systems.items():
        assert isinstance(each, Assistant)
        answers[system] = answer_all(each, rows, config.max_new_tokens, work)
        metrics[system] = {**response_loss(each, rows), **answer_metrics(answers[system], rows)}
    answers["nearest instruction"] = nearest_answers(examples.rows("train"), rows)
    metrics["nearest instruction"] = answer_metrics(answers["nearest instruction"], rows)
    predictions = {
        "item": [row.id for row in rows],
        "instruction": [row.instruction for row in rows],
        "response": [row.response for row in rows],
        **{f"{_key(system)}_answer": each for system, each in answers.items()},
    }
    _write(out, metrics, pa.table(predictions))
    shown = [
        f"> {row.instruction}\n{text}" for row, text in list(zip(rows, answers[MODEL], strict=True))[: config.shown]
    ]
    work.report.text("answers.txt", "\n\n".join(shown) + "\n")
    (out / "answers.txt").write_text("\n\n".join(shown) + "\n", encoding="utf-8")
    return {"task": "instruction", "scored_examples": len(rows), **_statistics("instruct", metrics)}


def answer_all(
    model: Assistant, rows: Sequence[Example], max_new_tokens: int, work: Work, batch: int = 32
) -> list[str]:
    """Greedy answers to the rows' instructions."""
    answers: list[str] = []
    for at in range(0, len(rows), batch):
        prompts = [model.prompt(row.instruction or "", row.input or "", row.history) for row in rows[at : at + batch]]
        answers += model.complete(prompts, max_new_tokens=max_new_tokens, temperature=0)
        work.report.progress(len(answers), len(rows), "answers")
    return [answer.strip() for answer in answers]


@torch.inference_mode()
def response_loss(model: Assistant, rows: Sequence[Example]) -> Metrics:
    """Mean loss of the responses' tokens, end of text included, in nats; only of examples that fit the context."""
    pairs = [training_pair(model.tokenizer, model.template, row) for row in rows]
    pairs = [pair for pair in pairs if len(pair[0]) <= model.gpt.config.context]
    if not pairs:
        raise InputError("no held-out example fits the model's context; pretrain with a longer one.")
    where = next(model.gpt.parameters()).device
    total, count = 0.0, 0
    for at in range(0, len(pairs), 32):
        part = pairs[at : at + 32]
        loss, n = next_token_loss(model.gpt, pad([ids for ids, _ in part], [targets for _, targets in part]).to(where))
        total, count = total + loss.item(), count + int(n)
    return {"loss": total / count}


def answer_metrics(answers: Sequence[str], rows: Sequence[Example]) -> Metrics:
    """chrF (Popović 2015, as sacrebleu computes it, 0 to 100) and the share of answers that are the response."""
    from sacrebleu import corpus_chrf

    references = [(row.response or "").strip() for row in rows]
    same = [a.strip().casefold() == r.casefold() for a, r in zip(answers, references, strict=True)]
    return {"chrf": float(corpus_chrf(list(answers), [references]).score), "exact_match": float(np.mean(same))}


def nearest_answers(train: Sequence[Example], rows: Sequence[Example]) -> list[str]:
    """The response to the most similar training instruction by TF-IDF: what no model at all would answer."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = r"(?u)\b\w+\b"  # scikit-learn's own pattern leaves out words of one letter: "I", "a"
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=words)
    known = vectorizer.fit_transform([row.text for row in train])
    similarity = vectorizer.transform([row.text for row in rows]) @ known.T
    return [train[int(i)].response or "" for i in np.asarray(similarity.argmax(axis=1)).ravel()]


def _at_most(streams: Sequence[NDArray], n: int) -> list[NDArray]:
    """The first n tokens of a split's streams."""
    kept = []
    for stream in streams:
        kept.append(stream[:n])
        n -= len(kept[-1])
        if n <= 1:
            break
    return [stream for stream in kept if len(stream) > 1]


def _statistics(stage: str, metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """The model's metrics as `stage/metric`, a baseline's as `baseline/stage/system/metric`."""
    return {
        f"{stage}/{metric}" if system == MODEL else f"baseline/{stage}/{_key(system)}/{metric}": value
        for system, each in metrics.items()
        for metric, value in each.items()
    }


def _key(system: str) -> str:
    return system.lower().replace(" ", "_").replace("-", "_")


def _write(out: Path, metrics: Mapping[str, Metrics], predictions: pa.Table) -> None:
    rows = [(system, name, value) for system, each in metrics.items() for name, value in each.items()]
    systems, names, values = zip(*rows, strict=True)
    table = pa.table({"system": list(systems), "metric": list(names), "value": list(values)})
    pq.write_table(table, out / "metrics.parquet", compression="zstd")
    pq.write_table(predictions, out / "predictions.parquet", compression="zstd")


_MODULES = ("pipelines.evaluate", "pipelines.baselines", "pipelines.model", "gpt.model", "gpt.generate")

EVALUATE_LANGUAGE = StepType(
    "evaluate-language", kind="evaluation", version=1, config=EvaluateLanguageConfig, run=run_language, modules=_MODULES
)
EVALUATE_CLASSIFIER = StepType(
    "evaluate-classifier",
    kind="evaluation",
    version=1,
    config=EvaluateClassifierConfig,
    run=run_classifier,
    modules=_MODULES,
)
EVALUATE_ASSISTANT = StepType(
    "evaluate-assistant",
    kind="evaluation",
    version=1,
    config=EvaluateAssistantConfig,
    run=run_assistant,
    modules=_MODULES,
)
