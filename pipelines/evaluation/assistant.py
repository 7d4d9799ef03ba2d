"""Evaluate an assistant: on held-out instructions, beside the base model and a retrieval of answers."""

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
from pipelines.evaluation.answer_metrics import METRICS
from pipelines.evaluation.judge import JudgeConfig, Verdict, judge
from pipelines.evaluation.metrics import Measure, measures
from pipelines.evaluation.results import MODEL, Metrics, beside, key_of, statistics, write_evaluation
from pipelines.evaluation.significance import intervals
from pipelines.models.language_model import Assistant, as_assistant, fits, open_gpt, open_model
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType
from pipelines.tokens.tokenized_examples import inputs_and_targets

BATCH = 32  # examples that the model reads at once


class EvaluateAssistantConfig(Config):
    """How an assistant is evaluated: on held-out instructions, beside the base model and a retrieval of answers."""

    split: Literal["validation", "test"] = "test"
    """The split that is scored."""
    max_new_tokens: int = Field(64, gt=0)
    """Longest answer, in tokens."""
    shown: int = Field(10, ge=0)
    """Answers kept in the summary, to read."""
    judge: JudgeConfig | None = None
    """A model that scores every answer; by default none."""


def run_assistant(
    inputs: Mapping[str, Dataset], config: EvaluateAssistantConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Score held-out responses and greedy answers, beside the base model and retrieval."""
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
    columns = {system: answer_columns(each, rows, config.max_new_tokens, work) for system, each in systems.items()}
    if train := Examples(inputs.get("trained_on", inputs["examples"])).rows("train"):
        columns["nearest instruction"] = {"answer": nearest_answers(train, rows)}
    verdicts = judge_answers(rows, columns[MODEL]["answer"], config.judge, work) if config.judge else []
    if verdicts:
        columns[MODEL]["score"] = [math.nan if each.score is None else each.score for each in verdicts]
    responses = [row.response or "" for row in rows]
    measured = {system: measures(METRICS, {"response": responses, **each}) for system, each in columns.items()}
    metrics: dict[str, Metrics] = {system: intervals(each) for system, each in measured.items()}
    write_evaluation(out, metrics, predictions_table(rows, columns, measured, verdicts))
    to_read = zip(rows[: config.shown], columns[MODEL]["answer"], strict=False)
    text = "\n\n".join(f"> {row.instruction}\n{answer}" for row, answer in to_read) + "\n"
    work.listener.text("answers.txt", text)
    (out / "answers.txt").write_text(text, encoding="utf-8")
    counts = {"scored_examples": len(rows), "left_out": len(held_out) - len(rows)}
    if config.judge:
        counts["judged_examples"] = sum(each.score is not None for each in verdicts)
    return {"task": "instruction", **counts, **statistics("instruct", metrics)}


def predictions_table(
    rows: Sequence[Example],
    columns: Mapping[str, Mapping[str, Any]],
    measured: Mapping[str, Mapping[str, Measure]],
    verdicts: Sequence[Verdict],
) -> pa.Table:
    """Return every example with each system's loss, answer and metrics, and the judge's verdict.

    Args:
        rows: the examples.
        columns: the columns of each system.
        measured: the metrics of each system by name.
        verdicts: the judge's, empty without a judge.
    """
    table: dict[str, Any] = {
        "item": [row.id for row in rows],
        "instruction": [row.instruction for row in rows],
        "response": [row.response for row in rows],
    }
    for system, each in columns.items():
        if "loss" in each:
            table |= {"tokens": each["tokens"], f"{key_of(system)}_loss": each["loss"]}
    if verdicts:
        table |= {f"judge_{name}": [getattr(each, name) for each in verdicts] for name in VERDICT}
    for system, each in columns.items():
        table[f"{key_of(system)}_answer"] = each["answer"]
        for name, measure in measured[system].items():
            if name not in ("loss", "judge_score"):
                table[f"{key_of(system)}_{name}"] = pa.array(measure.each, from_pandas=True)
    return pa.table(table)


VERDICT = ("prompt", "answer", "score", "status")


def judge_answers(
    rows: Sequence[Example], answers: Sequence[str], config: JudgeConfig, work: StepContext
) -> list[Verdict]:
    """Return the judge's verdicts on the answers. Answers without a score cause a warning."""
    items = [
        {"instruction": row.text, "response": row.response or "", "answer": answer}
        for row, answer in zip(rows, answers, strict=True)
    ]
    verdicts = judge(items, config, lambda done: work.listener.progress(done, len(items), "verdicts"))
    failed = Counter(each.status for each in verdicts if each.score is None)
    if failed:
        reasons = ", ".join(f"{n} {reason}" for reason, n in failed.most_common())
        work.listener.warn(f"{failed.total()} of {len(verdicts)} answers have no score from the judge: {reasons}")
    return verdicts


def answer_columns(model: Assistant, rows: Sequence[Example], max_new_tokens: int, work: StepContext) -> dict[str, Any]:
    """Answer the instructions greedily and score the responses; return the columns that metrics need."""
    answers: list[str] = []
    ended: list[float] = []
    for at in range(0, len(rows), BATCH):
        prompts = [model.prompt(row.messages) for row in rows[at : at + BATCH]]
        ids = generate(model.gpt, prompts, Sampling(max_new_tokens, stop=model.stop))
        answers += [model.tokenizer.decode(each).strip() for each in ids]
        ended += [float(len(each) < max_new_tokens) for each in ids]
        work.listener.progress(len(answers), len(rows), "answers")
    losses, n_tokens = response_losses(model, rows)
    return {"answer": answers, "ended": ended, "loss": losses, "tokens": n_tokens}


@torch.inference_mode()
def response_losses(model: Assistant, rows: Sequence[Example]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the summed loss, in nats, and the number of tokens of each response with its end of turn.

    Both are 0 for a conversation that is longer than the context.
    """
    pairs = [inputs_and_targets(model.template, model.tokenizer, row.conversation, "last") for row in rows]
    fitting = [i for i, (ids, _) in enumerate(pairs) if len(ids) <= model.gpt.config.context]
    if not fitting:
        raise InputError("no held-out example fits the model's context; pretrain with a longer one.")
    device = next(model.gpt.parameters()).device
    losses, counts = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
    for at in range(0, len(fitting), BATCH):
        part = fitting[at : at + BATCH]
        batch = pad([pairs[i][0] for i in part], [pairs[i][1] for i in part]).to(device)
        logits = model.gpt(batch.inputs).float()  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="none")
        losses[part] = loss.view_as(batch.targets).double().sum(1).cpu().numpy()
        counts[part] = (batch.targets != IGNORE).sum(1).cpu().numpy()
    return losses, counts


def nearest_answers(train: Sequence[Example], rows: Sequence[Example]) -> list[str]:
    """Return the response to the most similar training instruction by TF-IDF, which needs no model.

    Without a word in any training instruction, none is more similar than another, and the first is taken.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    word = r"(?u)\b\w+\b"  # scikit-learn's own pattern leaves out words of one letter: "I", "a"
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=word)
    try:
        known = vectorizer.fit_transform([row.text for row in train])
    except ValueError:  # no text has a word in it
        return [train[0].response or ""] * len(rows)
    similarity = vectorizer.transform([row.text for row in rows]) @ known.T
    return [train[int(i)].response or "" for i in np.asarray(similarity.argmax(axis=1)).ravel()]


def _headline(s: Mapping[str, Any]) -> str:
    return f"response loss {s['instruct/loss']:.3f}, chrF {s['instruct/chrf']:.1f}"


def _details(dataset: Dataset) -> str:
    s = dataset.manifest.statistics
    baselines = {"base_model": "before fine-tuning", "nearest_instruction": "nearest training answer"}
    columns = {"loss": ("loss", "{:.3f}"), "chrF": ("chrf", "{:.1f}"), "exact": ("exact_match", "{:.1%}")}
    return beside(s, "instruct", baselines, columns, f"{s['scored_examples']:,} held-out instructions")


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
