"""Evaluate an assistant: on held-out instructions, beside the base model and a retrieval of answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn import functional as F

from gpt.batch import IGNORE, pad
from gpt.config import Config
from gpt.generate import Sampling, generate
from pipelines.corpus.examples import Example, Examples
from pipelines.errors import InputError
from pipelines.evaluation.answer_metrics import Measure, interval, mean_of, measure_answers, ratio_of
from pipelines.evaluation.judge import JudgeConfig, Verdict, judge
from pipelines.evaluation.results import MODEL, Metrics, beside, key_of, statistics, write_evaluation
from pipelines.models.language_model import Assistant, as_assistant, fits, open_gpt, open_model
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.tokenized_examples import inputs_and_targets

BATCH = 32  # examples that the model reads at once


class EvaluateAssistantConfig(Config):
    """How an assistant is judged: on held-out instructions, beside the base model and a retrieval of answers."""

    split: Literal["validation", "test"] = Field(default="test", description="The split that is scored.")
    max_new_tokens: int = Field(default=64, gt=0, description="Longest answer, in tokens.")
    shown: int = Field(default=10, ge=0, description="Answers kept in the summary, to read.")
    judge: JudgeConfig | None = Field(default=None, description="A model that scores every answer; by default none.")


def run_assistant(
    inputs: Mapping[str, Dataset], config: EvaluateAssistantConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Loss on held-out responses and metrics of greedy answers, beside the base model and retrieval."""
    model, examples = open_model(inputs["model"].path), Examples(inputs["examples"])
    if not isinstance(model, Assistant):
        raise InputError(f"{inputs['model']} is no assistant.")
    held_out = examples.rows(config.split)
    rows = [row for row in held_out if fits(model, row.messages)]
    if not rows:
        raise InputError(f"{inputs['examples']} has no {config.split} examples to judge an assistant on.")
    if len(rows) < len(held_out):
        work.listener.warn(f"{len(held_out) - len(rows)} instructions fill the whole context and were left out")
    systems = {MODEL: model}
    if "base" in inputs:
        systems["base model"] = as_assistant(open_gpt(inputs["base"].path), model.template)
    references = [(row.response or "").strip() for row in rows]
    columns: dict[str, Any] = {
        "item": [row.id for row in rows],
        "instruction": [row.instruction for row in rows],
        "response": [row.response for row in rows],
    }
    answers: dict[str, list[str]] = {}
    measures: dict[str, dict[str, Measure]] = {}
    for system, each in systems.items():
        answers[system], ended = answer_all(each, rows, config.max_new_tokens, work)
        losses, n_tokens = response_losses(each, rows)
        columns |= {"tokens": n_tokens, f"{key_of(system)}_loss": losses}
        measures[system] = {
            "loss": ratio_of(losses, n_tokens),
            **measure_answers(answers[system], references),
            "ended": mean_of(ended),
        }
    answers["nearest instruction"] = nearest_answers(examples.rows("train"), rows)
    measures["nearest instruction"] = measure_answers(answers["nearest instruction"], references)
    if config.judge:
        measures[MODEL]["judge_score"], verdicts = judged(rows, answers[MODEL], config.judge, work)
        columns |= {f"judge_{name}": [getattr(each, name) for each in verdicts] for name in VERDICT}
    for system, said in answers.items():
        columns[f"{key_of(system)}_answer"] = said
        for name, measure in measures[system].items():
            if name not in ("loss", "judge_score"):
                columns[f"{key_of(system)}_{name}"] = pa.array(measure.each, from_pandas=True)
    metrics: dict[str, Metrics] = {
        system: {name: interval(measure) for name, measure in each.items()} for system, each in measures.items()
    }
    write_evaluation(out, metrics, pa.table(columns))
    shown = [
        f"> {row.instruction}\n{text}" for row, text in list(zip(rows, answers[MODEL], strict=True))[: config.shown]
    ]
    work.listener.text("answers.txt", "\n\n".join(shown) + "\n")
    (out / "answers.txt").write_text("\n\n".join(shown) + "\n", encoding="utf-8")
    counts = {"scored_examples": len(rows), "left_out": len(held_out) - len(rows)}
    if config.judge:
        counts["judged_examples"] = sum(score is not None for score in columns["judge_score"])
    return {"task": "instruction", **counts, **statistics("instruct", metrics)}


VERDICT = ("prompt", "answer", "score", "status")


def judged(
    rows: Sequence[Example], answers: Sequence[str], config: JudgeConfig, work: StepContext
) -> tuple[Measure, list[Verdict]]:
    """The judge's scores of the model's answers, and all that it said."""
    items = [
        {"instruction": row.text, "response": row.response or "", "answer": answer}
        for row, answer in zip(rows, answers, strict=True)
    ]
    verdicts = judge(items, config, lambda done: work.listener.progress(done, len(items), "verdicts"))
    failed = Counter(each.status for each in verdicts if each.score is None)
    if failed:
        reasons = ", ".join(f"{n} {reason}" for reason, n in failed.most_common())
        work.listener.warn(f"{failed.total()} of {len(verdicts)} answers have no score from the judge: {reasons}")
    return mean_of([math.nan if each.score is None else each.score for each in verdicts]), verdicts


def answer_all(
    model: Assistant, rows: Sequence[Example], max_new_tokens: int, work: StepContext
) -> tuple[list[str], list[float]]:
    """Greedy answers to the rows' instructions, and of each whether it ended before it had to (1 or 0)."""
    answers: list[str] = []
    ended: list[float] = []
    for at in range(0, len(rows), BATCH):
        prompts = [model.prompt(row.messages) for row in rows[at : at + BATCH]]
        ids = generate(model.gpt, prompts, Sampling(max_new_tokens, stop=model.stop))
        answers += [model.tokenizer.decode(each).strip() for each in ids]
        ended += [float(len(each) < max_new_tokens) for each in ids]
        work.listener.progress(len(answers), len(rows), "answers")
    return answers, ended


@torch.inference_mode()
def response_losses(model: Assistant, rows: Sequence[Example]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Summed loss, in nats, and number of each response's tokens, end of text included; 0 where it does not fit."""
    pairs = [inputs_and_targets(model.template, model.tokenizer, row.conversation, "last") for row in rows]
    fitting = [i for i, (ids, _) in enumerate(pairs) if len(ids) <= model.gpt.config.context]
    if not fitting:
        raise InputError("no held-out example fits the model's context; pretrain with a longer one.")
    where = next(model.gpt.parameters()).device
    losses, counts = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
    for at in range(0, len(fitting), BATCH):
        part = fitting[at : at + BATCH]
        batch = pad([pairs[i][0] for i in part], [pairs[i][1] for i in part]).to(where)
        logits = model.gpt(batch.inputs).float()  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="none")
        losses[part] = loss.view_as(batch.targets).double().sum(1).cpu().numpy()
        counts[part] = (batch.targets != IGNORE).sum(1).cpu().numpy()
    return losses, counts


def nearest_answers(train: Sequence[Example], rows: Sequence[Example]) -> list[str]:
    """The response to the most similar training instruction by TF-IDF: what no model at all would answer."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = r"(?u)\b\w+\b"  # scikit-learn's own pattern leaves out words of one letter: "I", "a"
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=words)
    known = vectorizer.fit_transform([row.text for row in train])
    similarity = vectorizer.transform([row.text for row in rows]) @ known.T
    return [train[int(i)].response or "" for i in np.asarray(similarity.argmax(axis=1)).ravel()]


def _headline(s: Mapping[str, Any]) -> str:
    return f"response loss {s['instruct/loss']:.3f}, chrF {s['instruct/chrf']:.1f}"


def _details(dataset: Dataset) -> str:
    s = dataset.manifest.statistics
    systems = {
        "this model": "instruct/",
        "before fine-tuning": "instruct-baseline/base_model/",
        "nearest training answer": "instruct-baseline/nearest_instruction/",
    }
    columns = {"loss": ("loss", "{:.3f}"), "chrF": ("chrf", "{:.1f}"), "exact": ("exact_match", "{:.1%}")}
    return beside(s, systems, columns, f"{s['scored_examples']:,} held-out instructions")


EVALUATE_ASSISTANT = StepType(
    "evaluate-assistant",
    kind="evaluation",
    version=5,
    config=EvaluateAssistantConfig,
    run=run_assistant,
    packages=("gpt", "pipelines.evaluation", "pipelines.models"),
    headline=_headline,
    details=_details,
)
