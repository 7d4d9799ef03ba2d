"""A trial: how a model does on the validation items that are kept out of every choice of its training.

The promotion gate compares trials, so it reads neither the items that chose a model's weights nor the test split. A
trial has the files of an evaluation, for one system: the model, or the simplest baseline in its place.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from gpt.config import Config
from pipelines.corpus.examples import Example, Examples
from pipelines.corpus.kept_out import divide, kept_out
from pipelines.errors import InputError
from pipelines.evaluation import (
    answer_metrics,
    assistant,
    classification_metrics,
    classifier,
    language_metrics,
    language_model,
)
from pipelines.evaluation.judge import JudgeConfig
from pipelines.evaluation.metrics import Measure, measures
from pipelines.evaluation.ngram_baselines import unigram_losses
from pipelines.evaluation.promotion import PromoteConfig
from pipelines.evaluation.results import MODEL, statistics, write_evaluation
from pipelines.evaluation.tasks import TRIAL
from pipelines.models.language_model import Assistant, LanguageModel, as_assistant, fits, open_gpt, open_model
from pipelines.models.scoring import sliding_losses
from pipelines.models.text_classifier import TextClassifier
from pipelines.numbers import counted
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.shards import Tokens

BASELINES = {
    "language": "the frequencies of tokens",
    "classification": "the most frequent label",
    "instruction": "the model before fine-tuning",
}
"""What each task's simplest baseline is, by task."""


class TrialConfig(Config):
    """How a model is tried on the items that are kept out."""

    baseline: bool = False
    """Try the task's simplest baseline in the model's place."""
    max_bytes: int = Field(4_000_000, gt=0)
    """Most bytes of documents; they are scored whole, and at least one is."""
    max_new_tokens: int = Field(64, gt=0)
    """Longest answer, in tokens."""
    judge: JudgeConfig | None = None
    """A model that scores every answer; by default none."""


def run(inputs: Mapping[str, Dataset], config: TrialConfig, out: Path, work: StepContext) -> dict[str, Any]:
    """Score the items that are kept out."""
    model, facts = open_model(inputs["model"].path), {}
    if isinstance(model, TextClassifier):
        task, (measured, predictions) = "classification", _try_classifier(model, inputs, config, work)
        facts = {"positive": model.decision.positive}
    elif isinstance(model, Assistant):
        task, (measured, predictions) = "instruction", _try_assistant(model, inputs, config, work)
    else:
        task, (measured, predictions) = "language", _try_language(model, Tokens(inputs["tokens"]), config, work)
    metrics = {MODEL: {name: measure.value for name, measure in measured.items()}}
    write_evaluation(out, metrics, predictions)
    return {"task": task, "items": len(predictions), **facts, **statistics(TRIAL, metrics)}


Result = tuple[Mapping[str, Measure], pa.Table]
"""Metrics by name, and a row for each item."""


def _try_language(model: LanguageModel, tokens: Tokens, config: TrialConfig, work: StepContext) -> Result:
    streams, items = _kept_out_streams(tokens, config.max_bytes)
    if config.baseline:
        losses = unigram_losses(tokens.streams("train"), streams, tokens.tokenizer.vocabulary)
    else:
        losses = sliding_losses(model.gpt, streams, work)
    documents, sizes = language_model.document_sizes(tokens.tokenizer, np.concatenate([each[1:] for each in streams]))
    by_document = np.bincount(documents, losses)
    measured = measures(language_metrics.METRICS, {"loss": by_document, **sizes})
    return measured, pa.table({"item": items, **sizes, f"{MODEL}_loss": by_document})


def _kept_out_streams(tokens: Tokens, max_bytes: int) -> tuple[list[NDArray], list[str]]:
    """Return the ids of the documents that are kept out, one stream for each shard, and the documents' ids."""
    streams: list[NDArray] = []
    items: list[str] = []
    for shard in tokens.shards_of("validation"):
        ids, offsets = tokens.known(tokens.flat(shard)), tokens.offsets(shard)
        names = tokens.shards[shard]["doc_id"].to_pylist()
        parts = []
        for number in np.flatnonzero(kept_out(names)):
            part = ids[offsets[number] : offsets[number + 1]]
            max_bytes -= int(tokens.tokenizer.token_lengths[part].sum())
            if max_bytes < 0 and items:
                break
            parts.append(part)
            items.append(names[number])
        if parts:
            streams.append(np.concatenate(parts))
    return streams, items


def _try_classifier(
    model: TextClassifier, inputs: Mapping[str, Dataset], config: TrialConfig, work: StepContext
) -> Result:
    examples, decision = Examples(inputs["examples"]), model.decision
    rows = _kept_out_rows(examples)
    if config.baseline:
        from pipelines.evaluation.classifier_baselines import fit_baseline  # scikit-learn imports for a second

        train = [row for row in examples.rows("train") if row.label in model.labels]
        classes = classifier.class_numbers(train, model.labels)
        predict = fit_baseline("majority class", [row.text for row in train], classes, len(model.labels))
        result = predict([row.text for row in rows]), replace(decision, threshold=None)
    else:
        result = model.probabilities([row.text for row in rows]), decision
    answers = classifier.answers_by_system(rows, model.labels, {MODEL: result}, work)
    if len(answers[MODEL].labels) <= classifier.FEW:
        measured = classification_metrics.measure_classes(answers[MODEL])
    else:
        measured = measures(classification_metrics.METRICS, {"answers": answers[MODEL]})
    return measured, classifier.predictions_table(rows, answers)


def _try_assistant(model: Assistant, inputs: Mapping[str, Dataset], config: TrialConfig, work: StepContext) -> Result:
    if config.baseline:
        model = as_assistant(open_gpt(inputs["base"].path), model.template)
    rows = [row for row in _kept_out_rows(Examples(inputs["examples"])) if fits(model, row.messages)]
    if not rows:
        raise InputError(f"{inputs['examples']} has no example to try an assistant on that fits its context.")
    columns = assistant.answer_columns(model, rows, config.max_new_tokens, work)
    verdicts = assistant.judge_answers(rows, columns["answer"], config.judge, work) if config.judge else []
    if verdicts:
        columns["score"] = [math.nan if each.score is None else each.score for each in verdicts]
    measured = measures(answer_metrics.METRICS, {"response": [row.response or "" for row in rows], **columns})
    return measured, assistant.predictions_table(rows, {MODEL: columns}, {MODEL: measured}, verdicts)


def _kept_out_rows(examples: Examples) -> list[Example]:
    return divide(examples.rows("validation"))[1]


def count_items(held_out: Dataset) -> int:
    """Return how many items of tokens or examples are kept out to decide on."""
    if held_out.ref.kind == "examples":
        return len(_kept_out_rows(Examples(held_out)))
    return int(kept_out(language_model.doc_ids(Tokens(held_out), "validation")).sum())


def _headline(s: Mapping[str, Any]) -> str:
    metric = PromoteConfig().criterion(s["task"]).metric
    name = metric.partition("/")[2].replace("_", " ")
    return f"{name} {s[metric]:.3f} on {counted(s['items'], 'item')} that chose nothing"


TRY = StepType(
    "trial",
    kind=TRIAL,
    version=1,
    config=TrialConfig,
    run=run,
    packages=("gpt", "pipelines.evaluation", "pipelines.models"),
    headline=_headline,
)
