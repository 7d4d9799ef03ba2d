"""Evaluate a classifier on held-out examples, beside one from random weights and classifiers without a GPT.

Besides metrics and predictions an evaluation holds `confusion.parquet` (truth, predicted, count), `curves.parquet` and
`mistakes.parquet`, the texts with the most confident wrong answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from gpt.classifier import Decision
from gpt.config import Config
from pipelines.corpus.examples import Example, Examples
from pipelines.errors import InputError
from pipelines.evaluation.classification_metrics import Answers, curves, with_intervals
from pipelines.evaluation.results import MODEL, key_of, statistics, write_evaluation
from pipelines.models.language_model import open_model
from pipelines.models.text_classifier import TextClassifier
from pipelines.models.threshold import choose_threshold
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepContext, StepType

SCRATCH = "from random weights"


MISTAKES = 100


FEW = 10  # labels; with more, the statistics have neither metrics of each label nor confusions


class EvaluateClassifierConfig(Config):
    """How a classifier is evaluated: on held-out examples, beside classifiers without a GPT."""

    split: Literal["validation", "test"] = Field(
        default="test", description="The split that is scored; a threshold was chosen on validation."
    )


def run_classifier(
    inputs: Mapping[str, Dataset], config: EvaluateClassifierConfig, out: Path, work: StepContext
) -> dict[str, Any]:
    """Evaluate the model, its baselines and, if there is one, the model from `scratch`."""
    model, examples = _classifier(inputs["model"]), Examples(inputs["examples"])
    rows = examples.rows(config.split)
    if not rows:
        raise InputError(f"{inputs['examples']} has no {config.split} examples to judge a classifier on.")
    unknown = sorted({row.label or "" for row in rows} - set(model.labels))
    if unknown:
        work.listener.warn(f"labels that training never saw count as errors: {', '.join(unknown)}")
    held_out = HeldOut(rows, (*model.labels, *unknown), len(model.labels))
    answers = {MODEL: held_out.answers(model.probabilities(held_out.texts), model.decision)}
    if "scratch" in inputs:
        scratch = _classifier(inputs["scratch"])
        answers[SCRATCH] = held_out.answers(scratch.probabilities(held_out.texts), scratch.decision)
    criterion = inputs["model"].manifest.config.get("threshold") if model.decision.threshold is not None else None
    answers |= baseline_answers(examples, held_out, model.decision, criterion, work)

    metrics = {system: with_intervals(each) for system, each in answers.items()}
    predictions = held_out.predictions(answers)
    write_evaluation(out, metrics, predictions)
    confusion = confusion_table(answers[MODEL])
    tables = {
        "confusion": confusion,
        "curves": pa.concat_tables([curves(system, each) for system, each in answers.items()]),
        "mistakes": mistakes(predictions),
    }
    for name, table in tables.items():
        pq.write_table(table, out / f"{name}.parquet", compression="zstd")

    few = len(held_out.labels) <= FEW
    shown = {
        system: {name: value for name, value in each.items() if "/" not in name or (few and system == MODEL)}
        for system, each in metrics.items()
    }
    counts = {f"confusion/{row['truth']}_as_{row['predicted']}": row["count"] for row in confusion.to_pylist()}
    return {
        "task": "classification",
        "scored_examples": len(rows),
        "positive": model.decision.positive,
        **statistics("classify", shown),
        **(counts if few else {}),
    }


@dataclass(frozen=True)
class HeldOut:
    """Held-out examples, and the labels that they or the classifier have.

    Attributes:
        rows: N examples.
        labels: the labels that training saw, then those that it did not.
        n_known: number of labels that training saw.
    """

    rows: Sequence[Example]
    labels: tuple[str, ...]
    n_known: int

    @cached_property
    def texts(self) -> list[str]:
        """The texts."""
        return [row.text for row in self.rows]

    @cached_property
    def truth(self) -> NDArray[np.int64]:
        """(N,) the classes."""
        return class_numbers(self.rows, self.labels)

    def answers(self, probabilities: NDArray[np.float64], decision: Decision) -> Answers:
        """Return a system's answers from its probabilities (N, labels that training saw)."""
        unseen = np.zeros((len(self.rows), len(self.labels) - self.n_known))
        everything = np.hstack([probabilities, unseen])
        positive = self.labels.index(decision.positive)
        return Answers(self.truth, decision.classes(probabilities), everything, self.labels, positive, self.n_known)

    def predictions(self, answers: Mapping[str, Answers]) -> pa.Table:
        """Return every text with its label, and the label and its probability that each system gives."""
        columns = {"item": [row.id for row in self.rows], "text": self.texts, "truth": [row.label for row in self.rows]}
        for system, each in answers.items():
            columns[f"{key_of(system)}_label"] = [self.labels[i] for i in each.predicted]
            columns[f"{key_of(system)}_probability"] = each.probabilities[np.arange(len(self.rows)), each.predicted]
        return pa.table(columns)


def baseline_answers(
    examples: Examples, held_out: HeldOut, decision: Decision, criterion: str | None, work: StepContext
) -> dict[str, Answers]:
    """Train classifiers without a GPT and return their answers, by system.

    Args:
        examples: the training and validation texts.
        held_out: the texts to classify.
        decision: the rule of the model.
        criterion: what the model's threshold was chosen by, if it has one. The baselines then get thresholds as well.
        work: receives a warning if there is nothing to train on.
    """
    from pipelines.evaluation.classifier_baselines import BASELINES  # scikit-learn takes most of a second to import

    train = [row for row in examples.rows("train") if row.label in decision.labels]
    if len({row.label for row in train}) < 2:
        work.listener.warn("no baselines: the train split does not have two of the classifier's labels")
        return {}
    texts, targets = [row.text for row in train], class_numbers(train, decision.labels)
    validation, positive = examples.rows("validation"), decision.labels.index(decision.positive)
    answers = {}
    for system, fit in BASELINES.items():
        predict = fit(texts, targets, len(decision.labels))
        threshold = None
        if criterion:
            is_positive = np.array([row.label == decision.positive for row in validation])
            threshold = choose_threshold(is_positive, predict([row.text for row in validation])[:, positive], criterion)
        rule = Decision(decision.labels, decision.positive, threshold)
        answers[system] = held_out.answers(predict(held_out.texts), rule)
    return answers


def class_numbers(rows: Sequence[Example], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return (N,) the number of each example's label."""
    number = {label: i for i, label in enumerate(labels)}
    return np.array([number[row.label or ""] for row in rows])


def confusion_table(answers: Answers) -> pa.Table:
    """Return the number of texts of each label that got each label (truth, predicted, count)."""
    labels = answers.labels
    counts = np.bincount(answers.truth * len(labels) + answers.predicted, minlength=len(labels) ** 2)
    truth, predicted = zip(*product(labels, repeat=2), strict=True)
    return pa.table({"truth": truth, "predicted": predicted, "count": counts})


def mistakes(predictions: pa.Table) -> pa.Table:
    """Return the model's wrong answers (item, text, truth, predicted, probability), the most confident first."""
    table = predictions.select(["item", "text", "truth", f"{MODEL}_label", f"{MODEL}_probability"])
    table = table.rename_columns(["item", "text", "truth", "predicted", "probability"])
    wrong = table.filter(pa.compute.not_equal(table["truth"], table["predicted"]))
    return wrong.sort_by([("probability", "descending"), ("item", "ascending")])[:MISTAKES]


def _classifier(dataset: Dataset) -> TextClassifier:
    model = open_model(dataset.path)
    if not isinstance(model, TextClassifier):
        raise InputError(f"{dataset} is no classifier.")
    return model


EVALUATE_CLASSIFIER = StepType(
    "evaluate-classifier",
    kind="evaluation",
    version=3,
    config=EvaluateClassifierConfig,
    run=run_classifier,
    packages=("gpt", "pipelines.evaluation", "pipelines.models"),
)
