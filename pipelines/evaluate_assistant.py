"""Evaluate an assistant: on held-out instructions, beside the base model and a retrieval of answers."""

from __future__ import annotations

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
from gpt.loss import IGNORE
from pipelines.datasets import Example, Examples
from pipelines.errors import InputError
from pipelines.evaluation import MODEL, Metrics, key_of, statistics, write_evaluation
from pipelines.finetune_assistant import encode_lesson, fits
from pipelines.model import Assistant, LanguageModel, as_assistant, open_gpt, open_model
from pipelines.step import StepType, Work
from pipelines.store import Dataset
from pipelines.training import pad


class EvaluateAssistantConfig(Config):
    """How an assistant is judged: on held-out instructions, beside the base model and a retrieval of answers."""

    split: Literal["validation", "test"] = Field(default="test", description="The split that is scored.")
    max_new_tokens: int = Field(default=64, gt=0, description="Longest answer, in tokens.")
    shown: int = Field(default=10, ge=0, description="Answers kept in the summary, to read.")


def run_assistant(
    inputs: Mapping[str, Dataset], config: EvaluateAssistantConfig, out: Path, work: Work
) -> dict[str, Any]:
    """Loss on held-out responses, chrF and exact match of greedy answers, beside the base model and retrieval."""
    model, examples = open_model(inputs["model"].path), Examples(inputs["examples"])
    if not isinstance(model, Assistant):
        raise InputError(f"{inputs['model']} is no assistant.")
    rows = [row for row in examples.rows(config.split) if fits(model, row.messages)]
    if not rows:
        raise InputError(f"{inputs['examples']} has no {config.split} examples to judge an assistant on.")
    systems: dict[str, LanguageModel] = {MODEL: model}
    if "base" in inputs:
        systems["base model"] = as_assistant(open_gpt(inputs["base"].path), model.template)
    answers: dict[str, list[str]] = {}
    losses: dict[str, NDArray[np.float64]] = {}
    metrics: dict[str, Metrics] = {}
    for system, each in systems.items():
        assert isinstance(each, Assistant)
        answers[system] = answer_all(each, rows, config.max_new_tokens, work)
        losses[system], n_tokens = response_losses(each, rows)
        loss = {"loss": float(losses[system].sum() / n_tokens.sum())}
        metrics[system] = {**loss, **answer_metrics(answers[system], rows)}
    answers["nearest instruction"] = nearest_answers(examples.rows("train"), rows)
    metrics["nearest instruction"] = answer_metrics(answers["nearest instruction"], rows)
    predictions = {
        "item": [row.id for row in rows],
        "instruction": [row.instruction for row in rows],
        "response": [row.response for row in rows],
        "tokens": n_tokens,
        **{f"{key_of(system)}_answer": each for system, each in answers.items()},
        **{f"{key_of(system)}_loss": each for system, each in losses.items()},
    }
    write_evaluation(out, metrics, pa.table(predictions))
    shown = [
        f"> {row.instruction}\n{text}" for row, text in list(zip(rows, answers[MODEL], strict=True))[: config.shown]
    ]
    work.report.text("answers.txt", "\n\n".join(shown) + "\n")
    (out / "answers.txt").write_text("\n\n".join(shown) + "\n", encoding="utf-8")
    return {"task": "instruction", "scored_examples": len(rows), **statistics("instruct", metrics)}


def answer_all(
    model: Assistant, rows: Sequence[Example], max_new_tokens: int, work: Work, batch: int = 32
) -> list[str]:
    """Greedy answers to the rows' instructions."""
    answers: list[str] = []
    for at in range(0, len(rows), batch):
        prompts = [model.prompt(row.messages) for row in rows[at : at + batch]]
        answers += model.complete(prompts, max_new_tokens=max_new_tokens, temperature=0)
        work.report.progress(len(answers), len(rows), "answers")
    return [answer.strip() for answer in answers]


@torch.inference_mode()
def response_losses(model: Assistant, rows: Sequence[Example]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Summed loss, in nats, and number of each response's tokens, end of text included; 0 where it does not fit."""
    pairs = [encode_lesson(model, row.conversation, "last") for row in rows]
    fitting = [i for i, (ids, _) in enumerate(pairs) if len(ids) <= model.gpt.config.context]
    if not fitting:
        raise InputError("no held-out example fits the model's context; pretrain with a longer one.")
    where = next(model.gpt.parameters()).device
    losses, counts = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
    for at in range(0, len(fitting), 32):
        part = fitting[at : at + 32]
        batch = pad([pairs[i][0] for i in part], [pairs[i][1] for i in part]).to(where)
        logits = model.gpt(batch.inputs).float()  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="none")
        losses[part] = loss.view_as(batch.targets).double().sum(1).cpu().numpy()
        counts[part] = (batch.targets != IGNORE).sum(1).cpu().numpy()
    return losses, counts


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


_MODULES = (
    "pipelines.evaluate_assistant",
    "pipelines.evaluation",
    "pipelines.baselines",
    "pipelines.model",
    "gpt.model",
    "gpt.generate",
)


EVALUATE_ASSISTANT = StepType(
    "evaluate-assistant",
    kind="evaluation",
    version=3,
    config=EvaluateAssistantConfig,
    run=run_assistant,
    modules=_MODULES,
)
